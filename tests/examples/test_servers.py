"""The example HTTP servers among good and bad clients, one at a time: on memory, on Redis and under valgrind."""

from __future__ import annotations

import random
import select
import signal
import socket
import threading

from http_clients import Client, equal, request

GET = request("GET", "/example:none")
HOST = b"Host: localhost\r\n"


def test_values_are_stored_read_and_deleted(serving):
    with Client(serving) as client:
        equal(client.ask("GET", "/example:none"), (404, b"", True))
        equal(client.ask("PUT", "/example:a", b"one"), (204, b"", True))
        equal(client.ask("GET", "/example:a"), (200, b"one", True))
        equal(client.ask("GET", "/example:a?query"), (200, b"one", True))
        equal(client.ask("HEAD", "/example:a"), (200, b"", True))
        equal(client.ask("PUT", "/example:a", b""), (204, b"", True))
        equal(client.ask("GET", "/example:a"), (200, b"", True))
        equal(client.ask("HEAD", "/example:none"), (404, b"", True))
        equal(client.ask("DELETE", "/example:a"), (204, b"", True))
        equal(client.ask("DELETE", "/example:a"), (404, b"", True))


def test_every_byte_may_be_in_a_key_and_in_a_value(serving):
    every = bytes(range(256))
    path = "/example:" + "".join(f"%{byte:02x}" for byte in every)
    with Client(serving) as client:
        equal(client.ask("PUT", path, every), (204, b"", True))
        # The same key, written in another way.
        equal(client.ask("GET", path.upper().replace("EXAMPLE:", "example%3A")), (200, every, True))
        equal(client.ask("DELETE", path), (204, b"", True))


def test_a_megabyte_comes_back(serving):
    large = random.randbytes(1 << 20)
    with Client(serving) as client:
        equal(client.ask("PUT", "/example:large", large), (204, b"", True))
        equal(client.ask("GET", "/example:large"), (200, large, True))
        equal(client.ask("DELETE", "/example:large"), (204, b"", True))


def test_a_request_may_come_in_pieces(serving):
    with Client(serving) as client:
        for byte in request("PUT", "/example:pieces", b"value"):
            client.send(bytes([byte]))
        equal(client.answer(), (204, b"", True))
        # A request and a half, and then the other half.
        get = request("GET", "/example:pieces")
        client.send(get + get[:20])
        equal(client.answer(), (200, b"value", True))
        client.send(get[20:])
        equal(client.answer(), (200, b"value", True))
        client.send(b"\r\n\r\n" + get)
        equal(client.answer(), (200, b"value", True))


def test_a_client_that_expects_100_continue_is_told_to(serving):
    with Client(serving) as client:
        client.send(request("PUT", "/example:pieces", fields="Expect: 100-continue\r\nContent-Length: 3\r\n"))
        equal(client.answer(), (100, b"", True))
        client.send(b"two")
        equal(client.answer(), (204, b"", True))
        equal(client.ask("GET", "/example:pieces"), (200, b"two", True))
        equal(client.ask("DELETE", "/example:pieces"), (204, b"", True))


def test_requests_that_come_together_are_answered_in_order(serving):
    script = []
    for i in range(300):
        body = b"%d," % i * random.randrange(200)
        script += [("PUT", body, (204, b"", True)), ("GET", None, (200, body, True))]
        script += [
            ("HEAD", None, (200, b"", True)),
            ("DELETE", None, (204, b"", True)),
            ("GET", None, (404, b"", True)),
        ]
    with Client(serving) as client:
        data = b"".join(request(method, "/example:pipeline", body) for method, body, _ in script)
        # From another thread, so that neither side waits for the other to read.
        sender = threading.Thread(target=client.send, args=[data])
        sender.start()
        for method, _, expected in script:
            equal(client.answer(method), expected)
        sender.join()


def test_a_connection_ends_where_the_client_says_so(serving):
    with Client(serving) as client:
        client.send(request("GET", "/example:none", fields="Connection: TE, Close\r\n") + GET)
        equal(client.answer(), (404, b"", False))
        assert client.ended()


def test_an_http_1_0_connection_ends_unless_it_is_to_be_kept(serving):
    with Client(serving) as client:
        client.send(b"GET /example:none HTTP/1.0\r\n\r\n")
        equal(client.answer(), (404, b"", False))
        assert client.ended()
    with Client(serving) as client:
        client.send(b"GET /example:none HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        equal(client.answer(), (404, b"", True))


def test_who_has_said_all_still_hears_all(serving):
    with Client(serving) as client:
        client.send(GET * 5)
        client.socket.shutdown(socket.SHUT_WR)
        for _ in range(5):
            equal(client.answer(), (404, b"", True))
        assert client.ended()


def test_half_a_request_and_an_end_is_no_request(serving):
    with Client(serving) as client:
        client.send(GET[:10])
        client.socket.shutdown(socket.SHUT_WR)
        assert client.ended()


REFUSED = [
    (400, b"nonsense\r\n\r\n"),
    (400, b"GET  HTTP/1.1\r\n" + HOST + b"\r\n"),
    (400, b"GET example HTTP/1.1\r\n" + HOST + b"\r\n"),
    (400, b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"),
    (400, b"GET /%4 HTTP/1.1\r\n" + HOST + b"\r\n"),
    (400, b"GET /%zz HTTP/1.1\r\n" + HOST + b"\r\n"),
    (400, b"GET /a HTTP/1.1 \r\n" + HOST + b"\r\n"),
    (400, b"GET /a\0 HTTP/1.1\r\n" + HOST + b"\r\n"),
    (400, b"GET /a HTTP/1.1\r\n\r\n"),
    (400, b"GET /a HTTP/1.1\r\n" + HOST + HOST + b"\r\n"),
    (400, b"GET /a HTTP/1.1\n" + HOST + b"\n\r\n\r\n"),
    (400, b"GET /a HTTP/1.1\r\n" + HOST + b" folded\r\n\r\n"),
    (400, b"GET /a HTTP/1.1\r\n" + HOST + b"No colon\r\n\r\n"),
    (400, b"GET /a HTTP/1.1\r\n" + HOST + b"Space : a\r\n\r\n"),
    (400, b"PUT /a HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na"),
    (400, b"PUT /a HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n"),
    (400, b"PUT /a HTTP/1.1\r\n" + HOST + b"Content-Length:\r\n\r\n"),
    (400, b"PUT /a HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999999999999999\r\n\r\n"),
    (405, b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\n\r\nabcd"),
    (413, b"PUT /a HTTP/1.1\r\n" + HOST + b"Content-Length: 1048577\r\n\r\n" + b"a" * 1048577),
    (417, b"PUT /a HTTP/1.1\r\n" + HOST + b"Expect: 200-maybe\r\n\r\n"),
    (431, b"GET /a HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 8192 + b"\r\n\r\n"),
    (431, b"GET /" + b"a" * 100000),
    (501, b"PUT /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (505, b"GET /a HTTP/2.0\r\n" + HOST + b"\r\n"),
]


def test_a_bad_request_is_refused_with_its_status_and_ends_the_connection(serving):
    for status, data in REFUSED:
        with Client(serving) as client:
            try:
                client.send(GET + data)
            except OSError:
                pass  # it hung up before all was sent; the answers are there all the same
            equal(client.answer(), (404, b"", True))
            answered = client.answer()
            assert (answered[0], answered[2]) == (status, False), data[:100]
            assert client.ended(), data[:100]


def test_clients_that_vanish_leave_others_served(serving, case):
    """They are gone before, in and after a request or an answer."""
    value = random.randbytes(1 << 20)
    get = request("GET", "/example:vanishing")
    with Client(serving) as client:
        equal(client.ask("PUT", "/example:vanishing", value)[0], 204)
        for i in range(case.vanishing):
            half_a_put = get + request("PUT", "/example:v", b"v" * 5000)[:-1]
            for data in [
                b"",
                get[:15],
                get,
                get * 7,
                half_a_put,
                request("PUT", "/example:vanished", b"%d" % i),
            ]:
                gone = Client(serving)
                gone.send(data)
                if i % 3 == 1 and data.startswith(get):
                    gone.more()
                gone.vanish() if i % 2 else gone.socket.close()
            equal(client.ask("GET", "/example:vanishing"), (200, value, True))
        equal(client.ask("DELETE", "/example:vanishing")[0], 204)


def test_sigint_ends_it_as_well(serving):
    with Client(serving) as client:
        equal(client.ask("GET", "/example:none"), (404, b"", True))
    serving.process.send_signal(signal.SIGINT)
    serving.ends_well()


def test_a_slow_client_is_given_a_second(impatient):
    """For a request, piece by piece or not at all, and for fetching the answer."""
    value = random.randbytes(1 << 20)
    with Client(impatient) as client:
        equal(client.ask("PUT", "/example:slow", value)[0], 204)
        before = impatient.descriptors() - 1
    with Client(impatient) as silent, Client(impatient) as slow, Client(impatient) as deaf:
        deaf.send(request("GET", "/example:slow") * 64)  # more than the system keeps for both sides
        sent = 0
        while not select.select([slow.socket], [], [], 0.1)[0]:
            assert sent < 600, "a request may take for ever"
            slow.send(b"a")
            sent += 1
        assert silent.ended() and slow.ended()
        impatient.has_descriptors(before, "nobody reads the answers, and still it waits")
        fetched = 0
        while deaf.more():
            fetched += len(deaf.input)
            deaf.input = b""
        assert fetched < 64 * len(value), "nobody read the answers, and still they were sent"
    with Client(impatient) as client:
        equal(client.ask("GET", "/example:slow"), (200, value, True))
        equal(client.ask("DELETE", "/example:slow")[0], 204)


def test_without_a_cache_all_is_a_miss(case):
    with case.serve("dummy://") as server, Client(server) as client:
        equal(client.ask("PUT", "/example:a", b"one"), (204, b"", True))
        equal(client.ask("GET", "/example:a"), (404, b"", True))
