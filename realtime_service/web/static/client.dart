/// Watches a diagnosis and stays with it: for Flutter and Dart 3, with the package web_socket_channel 3. Not run where
/// it was written, for want of a Dart tool-chain; client.js, of which it is the twin, is tested against the service.
///
/// Law: `onEvent` gets each event once, one at a time and in order; what may have been missed is told (`onGap`); every
/// close code's advice is obeyed.
library;

import 'dart:async';
import 'dart:convert';
import 'dart:math';

import 'package:web_socket_channel/web_socket_channel.dart';

enum RealtimeState { connecting, open, waiting, closed }

typedef Json = Map<String, dynamic>;

class RealtimeClient {
  RealtimeClient({
    required this.url,
    required this.diagnosis,
    required this.token,
    required this.onEvent,
    this.onGap,
    this.onState,
    this.onError,
    this.clientId,
    this.knownDevice = false,
    this.acknowledge = false,
    this.pingEvery,
  });

  /// The service: `https://realtime.example`.
  final Uri url;
  final int diagnosis;

  /// Gives a token that is good for a while: asked for each connection, and before the last one expires.
  final FutureOr<String> Function() token;

  /// Called once for each event, never for two at a time. With [acknowledge], an event counts as received when the
  /// future completes, within 5 s.
  final FutureOr<void> Function(Json event) onEvent;

  /// Events may be missing: load the current state. In order with [onEvent]; null: nobody knows how many.
  final FutureOr<void> Function(int? evicted)? onGap;

  /// The close code comes with `waiting` and `closed`.
  final void Function(RealtimeState state, int? code)? onState;

  /// What [token], [onEvent] and [onGap] throw, and the service's `error` frames.
  final void Function(Object error)? onError;

  /// Names this device, which then misses nothing that others received. Make it up once, and keep it where the app
  /// keeps its settings. Of two connections with one name the older is ended (4409).
  final String? clientId;

  /// [clientId] was kept from an earlier start: if its queue is gone, events are missing.
  final bool knownDevice;

  final bool acknowledge;

  /// Silence before the connection is asked whether it is alive; by default what the service advises.
  final Duration? pingEvery;

  static const _stayAway = {1008, 1009, 4409};
  static const _atOnce = {1000, 1012, 4401, 4408};
  static const _spread = 250; // milliseconds, like all numbers here; see client.js for the reasons
  static const _first = 1000;
  static const _longest = 30000;
  static const _stable = 10000;
  static const _mostAtOnce = 3;
  static const _join = 20000;
  static const _answer = 10000;
  static const _renew = 60000;
  static const _longestTimer = 0x7fffffff;
  static const _remembered = 2000;

  final _random = Random();
  final _seen = <String>{}; // in the order of insertion
  final _sinceWelcome = Stopwatch();
  late bool _known = knownDevice;
  var _state = RealtimeState.closed;
  var _wanted = false;
  var _turn = 0;
  var _failures = 0;
  var _clockOffset = 0;
  var _ping = const Duration(milliseconds: _join);
  WebSocketChannel? _channel;
  WebSocketChannel? _refused;
  StreamSubscription<dynamic>? _frames;
  Timer? _retry, _silence, _renewal;
  Future<void> _tail = Future.value();

  RealtimeState get state => _state;

  /// Connect, and stay connected until [close] or a close code that says to stay away. May be called again then.
  void open() {
    if (_wanted) return;
    _wanted = true;
    _failures = 0;
    unawaited(_connect());
  }

  /// Leave. What is not acknowledged waits for the next connection.
  void close() {
    _forget();
    _end(1000);
  }

  /// The app came to the foreground, or the network came back: find out at once what works.
  void wake() {
    if (!_wanted) return;
    final channel = _channel;
    if (_state == RealtimeState.open && channel != null) {
      _askAlive(channel);
    } else if (channel == null) {
      unawaited(_connect());
    }
  }

  Future<void> _connect() async {
    final turn = ++_turn;
    _stopTimers();
    _sinceWelcome
      ..stop()
      ..reset();
    _silence = _after(_join, () => _drop(_channel));
    _say(RealtimeState.connecting, null);
    try {
      final token = await this.token();
      if (turn != _turn) return;
      final channel = WebSocketChannel.connect(_address, protocols: ['realtime.v1', 'bearer.$token']);
      _channel = channel;
      // A handshake that fails is told twice: here, and by the end of the stream.
      unawaited(channel.ready.catchError((Object _) {}));
      _frames = channel.stream.listen(
        (text) => _hear(channel, jsonDecode(text as String) as Json, token),
        onError: (Object _) {}, // the end that follows says all there is to know
        onDone: () => _lost(channel, channel.closeCode ?? 1006),
      );
    } catch (error) {
      if (turn != _turn) return;
      onError?.call(error);
      _comeBack(1006);
    }
  }

  Uri get _address {
    final prefix = url.path.endsWith('/') ? url.path : '${url.path}/';
    final query = {
      if (clientId != null) 'client_id': clientId!,
      if (acknowledge) 'receipts': 'ack',
    };
    return url.replace(
      scheme: url.scheme.replaceFirst('http', 'ws'),
      path: '${prefix}ws/$diagnosis',
      queryParameters: query.isEmpty ? null : query,
    );
  }

  void _hear(WebSocketChannel channel, Json message, String token) {
    if (!identical(channel, _channel)) return;
    _listen(channel);
    switch (message['type']) {
      case 'connect':
        _welcome(channel, message, token);
      case 'gap':
        _inOrder(() => onGap?.call((message['data'] as Json)['evicted'] as int?));
      case 'error':
        onError?.call(StateError('${message['data']}'));
      default: // of types to come, those with an id are events
        if (message['event_id'] is String) _inOrder(() => _handle(channel, message));
    }
  }

  void _welcome(WebSocketChannel channel, Json message, String token) {
    final data = message['data'] as Json;
    _sinceWelcome.start();
    _clockOffset = DateTime.parse(message['timestamp'] as String).millisecondsSinceEpoch - _now;
    final advised = Duration(milliseconds: ((data['heartbeat_seconds'] as num) * 1000).round());
    _ping = pingEvery ?? advised;
    _listen(channel);
    _renewLater(channel, token);
    final missed = data['gap'] == true || (_known && data['resumed'] == false);
    _known = true;
    _say(RealtimeState.open, null);
    if (missed) _inOrder(() => onGap?.call(null));
  }

  /// Call the handler unless it had this event, and acknowledge it.
  Future<void> _handle(WebSocketChannel channel, Json event) async {
    if (identical(channel, _refused)) return;
    final id = event['event_id'] as String;
    if (!_seen.contains(id)) {
      try {
        await onEvent(event);
      } catch (error) {
        onError?.call(error);
        if (acknowledge) {
          _refused = channel; // what follows there comes again, in order
          _drop(channel);
          return;
        }
      }
      _seen.add(id);
      if (_seen.length > _remembered) _seen.remove(_seen.first);
    }
    if (acknowledge) _send(channel, {'type': 'ack', 'event_id': id});
  }

  void _inOrder(FutureOr<void> Function() work) {
    _tail = _tail.then((_) => work()).catchError((Object error) => onError?.call(error));
  }

  /// Something came. After a silence, ask: a dead network says nothing.
  void _listen(WebSocketChannel channel) {
    _silence?.cancel();
    _silence = Timer(_ping, () => _askAlive(channel));
  }

  void _askAlive(WebSocketChannel channel) {
    _silence?.cancel();
    _send(channel, {'type': 'ping'});
    _silence = _after(min(_ping.inMilliseconds, _answer), () => _drop(channel));
  }

  /// Renew the token before it expires, by the service's clock. Without `exp` in it, 4401 will tell.
  void _renewLater(WebSocketChannel channel, String token) {
    final expires = _expiryOf(token);
    if (expires == null) return;
    final left = expires - _now - _clockOffset;
    final wait = left > 0 ? max(1000, left - min(_renew, left ~/ 5)) : _renew ~/ 2;
    _renewal = _after(min(wait, _longestTimer), () async {
      var renewed = token;
      try {
        renewed = await this.token();
      } catch (error) {
        onError?.call(error);
      }
      if (!identical(channel, _channel)) return;
      if (renewed != token) _send(channel, {'type': 'auth', 'token': renewed});
      _renewLater(channel, renewed);
    });
  }

  void _send(WebSocketChannel channel, Json frame) {
    if (identical(channel, _channel)) channel.sink.add(jsonEncode(frame));
  }

  /// Give up a connection that is dead; its own end may take minutes.
  void _drop(WebSocketChannel? channel) {
    if (!identical(channel, _channel)) return;
    _forget();
    _comeBack(1006);
  }

  void _lost(WebSocketChannel channel, int code) {
    if (!identical(channel, _channel)) return;
    _forget();
    if (_stayAway.contains(code)) {
      _end(code);
    } else {
      _comeBack(code);
    }
  }

  void _comeBack(int code) {
    _turn += 1;
    _stopTimers();
    if (_sinceWelcome.elapsedMilliseconds > _stable) _failures = 0;
    final atOnce = _atOnce.contains(code) && _failures < _mostAtOnce;
    final most = atOnce ? _spread : min(_longest, _first << min(_failures, 5));
    _failures += 1;
    _retry = _after(_random.nextInt(most), () => unawaited(_connect()));
    _say(RealtimeState.waiting, code);
  }

  void _end(int code) {
    _wanted = false;
    _turn += 1;
    _stopTimers();
    if (_state != RealtimeState.closed) _say(RealtimeState.closed, code);
  }

  void _forget() {
    final channel = _channel;
    _channel = null;
    unawaited(_frames?.cancel());
    _frames = null;
    if (channel != null) unawaited(channel.sink.close().catchError((Object _) {}));
  }

  void _stopTimers() {
    for (final timer in [_retry, _silence, _renewal]) {
      timer?.cancel();
    }
  }

  void _say(RealtimeState state, int? code) {
    _state = state;
    onState?.call(state, code);
  }

  int get _now => DateTime.now().millisecondsSinceEpoch;

  Timer _after(int milliseconds, void Function() work) => Timer(Duration(milliseconds: milliseconds), work);

  /// `exp` of a JWT, in milliseconds; null for what is none.
  int? _expiryOf(String token) {
    try {
      final claims = utf8.decode(base64Url.decode(base64Url.normalize(token.split('.')[1])));
      return (((jsonDecode(claims) as Json)['exp'] as num) * 1000).round();
    } catch (_) {
      return null;
    }
  }
}
