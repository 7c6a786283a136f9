/* A crowd of WebSocket clients in one process and one thread: sockets, epoll, frames parsed as little as possible.
 *
 *   load PORT PATHS PROTOCOL AT_ONCE
 *
 * PATHS is a file with a request target a line, one client each. PROTOCOL says what a client does and which frames
 * count as events:
 *   plain     every text frame is an event                            (nchan, the bare send loop)
 *   welcome   the first text frame is the welcome, the others events  (this service, the replaced module)
 *   acks      the same, and each event is proved by an `ack` frame    (this service, `receipts=ack`)
 *   mqtt      CONNECT, SUBSCRIBE with QoS 1 to the path's #fragment; every PUBLISH is an event, PUBACK answers it
 *   socketio  Engine.IO 4 and Socket.IO 5: "0" is answered with "40", "2" with "3"; "42…" is an event
 * PINGs are answered in the order they came (RFC 6455 §5.5.3). AT_ONCE bounds the connections that are being made.
 *
 * On standard input, one line each: "report" answers with one line of JSON; "reset" forgets events, answers "ok";
 * "save FILE" writes the latencies since the reset (binary, 32-bit microseconds), answers "ok"; "quit" ends.
 * A latency is arrival − the number behind the first `sent_ns":` in the frame; both are CLOCK_MONOTONIC in ns.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum protocol { PLAIN, WELCOME, ACKS, MQTT, SOCKETIO };
enum state { NEW, CONNECTING, SHAKING, JOINING, READY, CLOSED };

struct client {
    int fd;
    enum state state;
    char *path;
    uint64_t began, ready, last;
    unsigned char *kept; /* bytes of a frame that is not whole yet */
    size_t kept_size, kept_room;
};

static struct client *clients;
static size_t count, next_client, in_flight, at_once, ready, closed, latency_count, latency_room;
static uint64_t frames, bytes, pings, acks, first_ns, last_ns, began_ns, all_ready_ns, last_close;
static uint32_t *latencies;
static enum protocol protocol;
static int epoll_fd, port;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void put(struct client *c, const void *data, size_t size) {
    /* What a client says is short: a send buffer that cannot take it means that the server reads nothing. */
    if (send(c->fd, data, size, MSG_NOSIGNAL) != (ssize_t)size) perror("send");
}

static void put_frame(struct client *c, int opcode, const unsigned char *payload, size_t size) {
    unsigned char frame[8 + 512];
    size_t header = size < 126 ? 2 : 4;
    frame[0] = (unsigned char)(0x80 | opcode);
    frame[1] = (unsigned char)(0x80 | (size < 126 ? size : 126));
    if (header == 4) { frame[2] = (unsigned char)(size >> 8); frame[3] = (unsigned char)size; }
    memset(frame + header, 0, 4); /* a mask of zeroes masks nothing */
    memcpy(frame + header + 4, payload, size);
    put(c, frame, header + 4 + size);
}

static void start_next(void) {
    while (next_client < count && in_flight < at_once) {
        struct client *c = &clients[next_client++];
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
        struct epoll_event wanted = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
        int one = 1;
        inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (c->fd < 0) { perror("socket"); exit(1); }
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c->began = now();
        c->state = CONNECTING;
        if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) { perror("connect"); exit(1); }
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &wanted);
        in_flight++;
    }
}

static void end(struct client *c) {
    if (c->state == CLOSED) return;
    if (c->state != READY) in_flight--;
    else ready--;
    c->state = CLOSED;
    closed++;
    close(c->fd);
    free(c->kept);
    c->kept = NULL;
    c->kept_size = 0;
}

static void is_ready(struct client *c, uint64_t at) {
    c->state = READY;
    c->ready = at;
    in_flight--;
    if (++ready == count) all_ready_ns = at;
}

static void arrived(struct client *c, const unsigned char *payload, size_t size, uint64_t at) {
    frames++;
    if (!first_ns) first_ns = at;
    c->last = last_ns = at;
    const unsigned char *mark = memmem(payload, size, "sent_ns\":", 9);
    if (!mark) return;
    uint64_t sent = 0;
    for (mark += 9; mark < payload + size && (*mark == ' ' || (*mark >= '0' && *mark <= '9')); mark++)
        if (*mark != ' ') sent = sent * 10 + (uint64_t)(*mark - '0');
    if (!sent) return;
    if (latency_count == latency_room) {
        latency_room = latency_room ? 2 * latency_room : 1 << 16;
        latencies = realloc(latencies, latency_room * sizeof *latencies);
    }
    latencies[latency_count++] = (uint32_t)((at - sent) / 1000);
}

static void acknowledge(struct client *c, const unsigned char *payload, size_t size) {
    unsigned char frame[256];
    const unsigned char *id = memmem(payload, size, "\"event_id\":\"", 12);
    if (!id) return;
    id += 12;
    const unsigned char *quote = memchr(id, '"', (size_t)(payload + size - id));
    int length = snprintf((char *)frame, sizeof frame, "{\"type\":\"ack\",\"event_id\":\"%.*s\"}", (int)(quote - id), id);
    put_frame(c, 1, frame, (size_t)length);
    acks++;
}

static void mqtt_connect(struct client *c) {
    unsigned char packet[64] = {0x10, 0, 0, 4, 'M', 'Q', 'T', 'T', 4, 0x00, 0, 0};
    int id = sprintf((char *)packet + 14, "bench%zu", (size_t)(c - clients));
    packet[9] = 0x00; /* a session that stays */
    const char *user = strchr(c->path, '#') + 1; /* user:password#topic */
    const char *colon = strchr(user, ':'), *hash = strchr(user, '#');
    packet[9] = 0xC0;
    packet[12] = 0; packet[13] = (unsigned char)id;
    size_t at = 14 + (size_t)id;
    unsigned char whole[256];
    memcpy(whole, packet, at);
    size_t length = (size_t)(colon - user);
    whole[at++] = 0; whole[at++] = (unsigned char)length;
    memcpy(whole + at, user, length); at += length;
    length = (size_t)(hash - colon - 1);
    whole[at++] = 0; whole[at++] = (unsigned char)length;
    memcpy(whole + at, colon + 1, length); at += length;
    whole[1] = (unsigned char)(at - 2); /* below 128, so one byte says it */
    put_frame(c, 2, whole, at);
}

static void mqtt(struct client *c, const unsigned char *p, size_t size, uint64_t at) {
    size_t i = 0;
    while (i + 2 <= size) {
        size_t length = 0, shift = 0, header = i + 1;
        do length |= (size_t)(p[header] & 0x7F) << shift, shift += 7; while (p[header++] & 0x80);
        if (p[i] == 0x20) {
            if (p[header + 1]) { fprintf(stderr, "MQTT: refused, %d\n", p[header + 1]); end(c); return; }
            unsigned char packet[128] = {0x82, 0, 0, 1, 0, 0};
            const char *topic = strrchr(c->path, '#') + 1;
            size_t name = strlen(topic);
            packet[5] = (unsigned char)name;
            memcpy(packet + 6, topic, name);
            packet[6 + name] = 1; /* QoS 1 */
            packet[1] = (unsigned char)(5 + name);
            put_frame(c, 2, packet, 7 + name);
        } else if (p[i] == 0x90) {
            is_ready(c, at);
        } else if ((p[i] & 0xF0) == 0x30) {
            arrived(c, p + i, header - i + length, at);
            if (p[i] & 0x06) {
                size_t topic = (size_t)p[header] << 8 | p[header + 1];
                unsigned char ack[4] = {0x40, 2, p[header + 2 + topic], p[header + 3 + topic]};
                put_frame(c, 2, ack, 4);
            }
        }
        i = header + length;
    }
}

static void took(struct client *c, int opcode, const unsigned char *payload, size_t size, uint64_t at) {
    if (opcode == 9) { pings++; put_frame(c, 10, payload, size); return; }
    if (opcode == 8) { last_close = size >= 2 ? (uint64_t)payload[0] << 8 | payload[1] : 1005; end(c); return; }
    if (opcode != 1 && opcode != 2) return;
    if (protocol == MQTT) mqtt(c, payload, size, at);
    else if (protocol == SOCKETIO) {
        if (payload[0] == '0') put_frame(c, 1, (const unsigned char *)"40", 2);
        else if (payload[0] == '2') put_frame(c, 1, (const unsigned char *)"3", 1);
        else if (size > 1 && payload[1] == '0') is_ready(c, at);
        else if (size > 1 && payload[1] == '2') arrived(c, payload, size, at);
    } else if (c->state == JOINING) is_ready(c, at);
    else {
        arrived(c, payload, size, at);
        if (protocol == ACKS) acknowledge(c, payload, size);
    }
}

/* Take whole frames from a buffer. Returns the bytes used. */
static size_t take(struct client *c, const unsigned char *data, size_t size, uint64_t at) {
    size_t i = 0;
    if (c->state == SHAKING) {
        const unsigned char *end_of_head = memmem(data, size, "\r\n\r\n", 4);
        if (!end_of_head) return 0;
        if (size < 12 || memcmp(data + 9, "101", 3)) { fprintf(stderr, "%.200s\n", data); end(c); return size; }
        i = (size_t)(end_of_head - data) + 4;
        c->state = JOINING;
        if (protocol == PLAIN) is_ready(c, at);
        if (protocol == MQTT) mqtt_connect(c);
    }
    while (c->state != CLOSED && size - i >= 2) {
        size_t header = 2, length = data[i + 1] & 0x7F;
        if (length == 126) header = 4;
        if (length == 127) header = 10;
        if (size - i < header) break;
        if (header > 2) {
            length = 0;
            for (size_t k = 2; k < header; k++) length = length << 8 | data[i + k];
        }
        if (size - i < header + length) break;
        took(c, data[i] & 0x0F, data + i + header, length, at);
        i += header + length;
    }
    return i;
}

static void hear(struct client *c) {
    static unsigned char buffer[1 << 18];
    ssize_t got = recv(c->fd, buffer + 0, sizeof buffer, 0);
    if (got <= 0) { if (!got || errno != EAGAIN) end(c); return; }
    uint64_t at = now();
    bytes += (uint64_t)got;
    const unsigned char *data = buffer;
    size_t size = (size_t)got;
    if (c->kept_size) {
        if (c->kept_room < c->kept_size + size) c->kept = realloc(c->kept, c->kept_room = c->kept_size + size);
        memcpy(c->kept + c->kept_size, buffer, size);
        size += c->kept_size;
        data = c->kept;
        c->kept_size = 0;
    }
    size_t used = take(c, data, size, at);
    if (c->state == CLOSED) return;
    if (used < size) {
        size_t rest = size - used;
        if (c->kept_room < rest) {
            unsigned char *room = malloc(rest);
            memcpy(room, data + used, rest);
            free(c->kept);
            c->kept = room;
            c->kept_room = rest;
        } else memmove(c->kept, data + used, rest);
        c->kept_size = rest;
    }
}

static void shake(struct client *c) {
    char head[8192];
    const char *hash = strchr(c->path, '#');
    int target = hash ? (int)(hash - c->path) : (int)strlen(c->path);
    int size = snprintf(head, sizeof head,
        "GET %.*s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n",
        target, c->path, port, protocol == MQTT ? "Sec-WebSocket-Protocol: mqtt\r\n" : "");
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &wanted);
    c->state = SHAKING;
    put(c, head, (size_t)size);
}

static void report(void) {
    uint64_t longest = 0, backlog = 0, whole = 0;
    for (size_t i = 0; i < count; i++) {
        if (clients[i].ready && clients[i].ready - clients[i].began > longest)
            longest = clients[i].ready - clients[i].began;
        if (clients[i].ready && clients[i].last > clients[i].ready && clients[i].last - clients[i].ready > backlog)
            backlog = clients[i].last - clients[i].ready;
        if (clients[i].last && clients[i].last - clients[i].began > whole) whole = clients[i].last - clients[i].began;
    }
    printf("{\"ready\":%zu,\"closed\":%zu,\"last_close\":%lu,\"frames\":%lu,\"bytes\":%lu,\"pings\":%lu,\"acks\":%lu,\"first_ns\":%lu,"
           "\"last_ns\":%lu,\"connecting_ns\":%lu,\"longest_connect_ns\":%lu,\"welcome_to_last_ns\":%lu,\"connect_to_last_ns\":%lu}\n",
           ready, closed, last_close, frames, bytes, pings, acks, first_ns, last_ns,
           all_ready_ns ? all_ready_ns - began_ns : 0, longest, backlog, whole);
}

static int obey(void) {
    char line[4096];
    size_t size = 0;
    while (size < sizeof line - 1 && read(0, line + size, 1) == 1 && line[size] != '\n') size++;
    line[size] = 0;
    if (!size || !strcmp(line, "quit")) return 0;
    if (!strcmp(line, "report")) report();
    else {
        if (!strcmp(line, "reset")) frames = bytes = pings = acks = first_ns = last_ns = latency_count = 0;
        else if (!strncmp(line, "save ", 5)) {
            FILE *file = fopen(line + 5, "wb");
            if (!file || fwrite(latencies, sizeof *latencies, latency_count, file) != latency_count) perror(line + 5);
            if (file) fclose(file);
        }
        puts("ok");
    }
    fflush(stdout);
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    port = atoi(argv[1]);
    protocol = !strcmp(argv[3], "mqtt") ? MQTT : !strcmp(argv[3], "socketio") ? SOCKETIO
             : !strcmp(argv[3], "welcome") ? WELCOME : !strcmp(argv[3], "acks") ? ACKS : PLAIN;
    at_once = (size_t)atol(argv[4]);
    FILE *paths = fopen(argv[2], "r");
    if (!paths) { perror(argv[2]); return 1; }
    char *line = NULL;
    size_t room = 0;
    for (ssize_t size; (size = getline(&line, &room, paths)) > 0; count++) {
        clients = realloc(clients, (count + 1) * sizeof *clients);
        memset(&clients[count], 0, sizeof *clients);
        line[size - 1] = 0;
        clients[count].path = strdup(line);
    }
    epoll_fd = epoll_create1(0);
    struct epoll_event console = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &console);
    began_ns = now();
    for (;;) {
        start_next();
        struct epoll_event happened[512];
        int found = epoll_wait(epoll_fd, happened, 512, -1);
        for (int i = 0; i < found; i++) {
            struct client *c = happened[i].data.ptr;
            if (!c) { if (!obey()) return 0; continue; }
            if (c->state == CLOSED) continue;
            if (c->state == CONNECTING) {
                int error = 0;
                socklen_t size = sizeof error;
                getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
                if (error) { fprintf(stderr, "connect: %s\n", strerror(error)); end(c); }
                else if (happened[i].events & EPOLLOUT) shake(c);
            } else hear(c);
        }
    }
}
