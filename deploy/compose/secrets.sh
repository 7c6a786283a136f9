#!/bin/sh
# Makes the secrets that compose.yaml reads, once: passwords, URLs with them, a token secret, a self-signed certificate.
set -eu
cd "$(dirname "$0")/.."
umask 077
mkdir -p secrets
cd secrets

password() { [ -s "$1" ] || openssl rand -hex 24 > "$1"; }

for user in publisher service monitor operator; do
    password "rabbitmq_$user"
done
password postgres
password grafana
password jwt
printf 'amqp://service:%s@rabbitmq:5672/realtime' "$(cat rabbitmq_service)" > amqp_url
printf 'http://monitor:%s@rabbitmq:15672' "$(cat rabbitmq_monitor)" > management_url
printf 'postgresql://realtime:%s@postgres:5432/realtime' "$(cat postgres)" > database_url
[ -s tls.key ] || openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout tls.key -out tls.crt 2>/dev/null
# Compose mounts these as files of the host's user: the containers' users must be able to read them.
chmod 644 ./*
chmod 700 .
