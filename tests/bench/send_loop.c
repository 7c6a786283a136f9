/* The physical limit: a WebSocket server that does nothing but send(2) the same frame to each of its clients.
 *
 *   send_loop PORT
 *
 * On standard input "EVENTS GAP_US SIZE" sends that many events of SIZE bytes, GAP_US microseconds apart, to all who
 * are connected, and answers "ok". Its clients all use the sample key of RFC 6455 §1.3, so the answer is fixed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char ANSWER[] =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

static int clients[65536];
static size_t count;

static void welcome(int listening) {
    char request[8192];
    int one = 1, fd = accept(listening, NULL, NULL);
    if (fd < 0 || recv(fd, request, sizeof request, 0) <= 0) exit(1);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (send(fd, ANSWER, sizeof ANSWER - 1, MSG_NOSIGNAL) < 0) exit(1);
    clients[count++] = fd;
}

static void publish(long events, long gap_us, size_t size) {
    unsigned char frame[4 + 65536];
    struct timespec due;
    frame[0] = 0x81;
    frame[1] = 126;
    frame[2] = (unsigned char)(size >> 8);
    frame[3] = (unsigned char)size;
    memset(frame + 4, 'x', size);
    clock_gettime(CLOCK_MONOTONIC, &due);
    for (long event = 0; event < events; event++) {
        for (size_t i = 0; i < count; i++)
            if (send(clients[i], frame, 4 + size, MSG_NOSIGNAL) != (ssize_t)(4 + size)) exit(1);
        due.tv_nsec += gap_us * 1000;
        for (; due.tv_nsec >= 1000000000; due.tv_nsec -= 1000000000) due.tv_sec++;
        if (gap_us) clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
    }
}

int main(int argc, char **argv) {
    int one = 1, listening = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[argc - 1]))};
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    inet_pton(AF_INET, "127.0.0.1", &at.sin_addr);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listening, (struct sockaddr *)&at, sizeof at) || listen(listening, 4096)) { perror("listen"); return 1; }
    puts("listening");
    fflush(stdout);
    for (;;) {
        struct pollfd ready[2] = {{.fd = 0, .events = POLLIN}, {.fd = listening, .events = POLLIN}};
        poll(ready, 2, -1);
        if (ready[1].revents) welcome(listening);
        if (ready[0].revents) {
            char line[256];
            long events, gap_us, size;
            ssize_t got = read(0, line, sizeof line - 1);
            if (got <= 0) return 0;
            line[got] = 0;
            if (sscanf(line, "%ld %ld %ld", &events, &gap_us, &size) != 3 || size > 65536) return 2;
            publish(events, gap_us, (size_t)size);
            puts("ok");
            fflush(stdout);
        }
    }
}
