"""The same URL, given to redis-py and to this library: accepted or refused alike, and of the same meaning."""

from __future__ import annotations

import pytest
import redis

import cachetory_c
from cachetory_c import ERR_INVALID_URL, ERR_UNSUPPORTED, CachetoryError
from polling import poll
from redis_server import RedisServer


def python_accepts(url: str) -> bool:
    """redis-py checks some of its options only when it makes a connection (without opening it)."""
    try:
        pool = redis.from_url(url).connection_pool
        pool.connection_class(**pool.connection_kwargs)
    except Exception:
        return False
    return True


def our_status(url: str) -> int:
    try:
        cachetory_c.Cache(url).close()
    except CachetoryError as error:
        return error.status
    return cachetory_c.OK


ACCEPTED = """
redis://
redis://localhost
redis://localhost:6379
redis://localhost:6379/
redis://localhost/0
redis://localhost/3
redis://localhost/3?db=
redis://localhost/3#fragment
redis://localhost?
redis://localhost?db=3
redis://localhost?db=1&db=2
redis://:7000
redis://:7000/1
redis://[::1]
redis://[::1]:6380/2
redis://user@localhost
redis://:password@localhost
redis://user:password@localhost:6379/0
redis://:@localhost
redis://us%65r:p%40ss%3Aw%2Frd@localhost
redis://localhost?username=user&password=password
redis://localhost?client_name=worker-1
redis://localhost?socket_timeout=0.25&socket_connect_timeout=1
redis://localhost?socket_timeout=1e-3
redis://localhost?socket_timeout=&socket_connect_timeout=
redis://localhost?max_connections=4
redis://localhost?socket_keepalive=yes
redis://localhost?socket_keepalive=False
redis://localhost?health_check_interval=30
redis://localhost?health_check_interval=0
redis://localhost?protocol=2
redis://localhost?protocol=3
redis://localhost?decode_responses=True&encoding=latin-1&encoding_errors=replace
redis://localhost?retry_on_timeout=True
redis://localhost?retry_on_error=x
rediss://localhost:6380/1
rediss://localhost?ssl_cert_reqs=required
rediss://localhost?ssl_cert_reqs=optional
rediss://localhost?ssl_cert_reqs=none
rediss://localhost?ssl_check_hostname=False
rediss://localhost?ssl_check_hostname=1
unix:///tmp/redis.sock
unix:///tmp/redis.sock?db=2
unix:///tmp/with%20space.sock
unix://user@/tmp/redis.sock?db=0&password=password
unix://user:password@/tmp/redis.sock
""".split()

REFUSED = """
localhost
localhost:6379
http://localhost
redis:/localhost
redis://localhost:port
redis://localhost:99999
redis://localhost:-1
redis://[::1
redis://localhost?db=x
redis://localhost?db=1.5
redis://localhost?socket_timeout=soon
redis://localhost?socket_connect_timeout=5s
redis://localhost?max_connections=many
redis://localhost?max_connections=-1
redis://localhost?health_check_interval=x
redis://localhost?protocol=4
redis://localhost?protocol=x
redis://localhost?nosuch=1
redis://localhost?Db=1
redis://localhost?socket_timout=1
rediss://localhost?ssl_cert_reqs=maybe
""".split()

# What redis-py lets pass, and what becomes of it there.
ONLY_THERE = {
    "redis://localhost/cache": "a path that is no number is ignored",
    "redis://localhost/1/2": "the slashes are dropped: database 12",
    "redis://localhost/-1": "a database that no server has",
    "redis://localhost?db=-1": "a database that no server has",
    "redis://user:p%zz@localhost": "the broken escape is taken literally",
    "redis://localhost?client_name=%zz": "the broken escape is taken literally",
    "redis://localhost?client_name=two+words": "the server refuses the name",
    "redis://localhost?socket_timeout=-1": "fails at the first connection",
    "redis://localhost?socket_timeout=nan": "fails at the first connection",
    "redis://localhost?socket_timeout=inf": "fails at the first connection",
    "redis://localhost?socket_timeout=0": "a non-blocking socket, on which nothing succeeds",
    "redis://localhost?max_connections=0": "taken for no bound",
    "redis://localhost?health_check_interval=-1": "always checked",
    "redis://localhost:0": "taken for 6379",
    "redis://localhost?host=elsewhere": "an option of the Python class, not of the connection",
    "redis://localhost?socket_type=1": "an option of the Python class, not of the connection",
    "unix://": "a socket without a path",
}

# What this library takes and redis-py does not.
ONLY_HERE = {
    "valkey://localhost": "the other name",
    "redis+unix:///tmp/redis.sock": "the scheme of the cachetory package",
    "REDIS://localhost": "schemes know no case",
    "redis://localhost?timeout=5": "an option of redis-py's BlockingConnectionPool",
    "redis://localhost?ssl_cert_reqs=none": "an option that does not concern the scheme",
    "unix:///tmp/redis.sock?ssl_check_hostname=no": "an option that does not concern the scheme",
    "redis://localhost?prefix=svc%3A": "an option of this library",
    "redis://localhost?max_pending=10&spin_us=0&fail_fast=0": "options of this library",
    "memory://": "another backend",
    "memory://?max_bytes=64m": "another backend",
    "dummy://": "another backend",
    "dummy://?socket_timeout=1": "another backend",
}

UNSUPPORTED_YET = """
redis+cluster://localhost
rediss+cluster://one:7000,two:7001
redis+sentinel://localhost/service
rediss+sentinel://one,two:26380/service/1
""".split()


@pytest.mark.parametrize("url", ACCEPTED)
def test_both_accept(url):
    assert python_accepts(url)
    assert our_status(url) == cachetory_c.OK


@pytest.mark.parametrize("url", REFUSED)
def test_both_refuse(url):
    assert not python_accepts(url)
    assert our_status(url) == ERR_INVALID_URL


@pytest.mark.parametrize("url", ONLY_THERE)
def test_only_redis_py_accepts(url):
    assert python_accepts(url)
    assert our_status(url) == ERR_INVALID_URL


@pytest.mark.parametrize("url", ONLY_HERE)
def test_only_this_library_accepts(url):
    assert not python_accepts(url)
    assert our_status(url) == cachetory_c.OK


@pytest.mark.parametrize("url", UNSUPPORTED_YET)
def test_not_supported_yet(url):
    assert our_status(url) == ERR_UNSUPPORTED


@pytest.mark.parametrize("url", [url for url in REFUSED + list(ONLY_THERE) if "@" not in url])
def test_a_password_never_shows_in_a_complaint(url):
    scheme, separator, rest = url.partition("://")
    secret = "hunter2"
    with pytest.raises(CachetoryError) as caught:
        cachetory_c.Cache(f"{scheme}{separator}user:{secret}@{rest}")
    assert secret not in caught.value.message


PASSWORD = "p@ss:w/rd#?&+ %é"
PASSWORD_ESCAPED = "p%40ss%3Aw%2Frd%23%3F%26%2B%20%25%C3%A9"

# What follows the scheme, around the server's address: user info, path and query; then database, user and name on the
# server.
MEANINGS = [
    ("", "", 0, "default", ""),
    ("", "/3", 3, "default", ""),
    ("", "/3/", 3, "default", ""),
    ("", "/%33", 3, "default", ""),
    ("", "?db=4", 4, "default", ""),
    ("", "/3?db=4", 4, "default", ""),
    ("", "/3?db=", 3, "default", ""),
    ("", "?db=1&db=2", 1, "default", ""),
    ("", "?client_name=worker-1", 0, "default", "worker-1"),
    ("", "?client_name=", 0, "default", ""),
    ("alice:plain@", "", 0, "alice", ""),
    ("alice:plain@", "/2?client_name=x", 2, "alice", "x"),
    ("al%69ce:pl%61in@", "", 0, "alice", ""),
    ("", "?username=alice&password=plain", 0, "alice", ""),
    ("alice@", "?password=plain", 0, "alice", ""),
    (":plain@", "?username=alice", 0, "alice", ""),
    ("alice:plain@", "?username=bob&password=wrong", 0, "alice", ""),
    (f"bob:{PASSWORD_ESCAPED}@", "", 0, "bob", ""),
    ("", "?username=erin&password=p%40ss%3Aw%2Frd%23%3F%26%2B%20%C3%A9", 0, "erin", ""),
    ("carol:a+b@", "", 0, "carol", ""),
    ("", "?username=carol&password=a%2Bb", 0, "carol", ""),
    ("", "?username=dave&password=a+b", 0, "dave", ""),
]


@pytest.fixture
def users(server: RedisServer, client: redis.Redis) -> RedisServer:
    passwords = {"alice": "plain", "bob": PASSWORD, "carol": "a+b", "dave": "a b", "erin": "p@ss:w/rd#?&+ é"}
    for name, password in passwords.items():
        rights = {"categories": ["+@all"], "keys": ["*"]}
        client.acl_setuser(name, enabled=True, reset=True, passwords=[f"+{password}"], **rights)
    return server


def connections(client: redis.Redis) -> dict[str, dict[str, str]]:
    return {each["id"]: each for each in client.client_list()}


def appeared(client: redis.Redis, before: dict[str, dict[str, str]]) -> dict[str, str]:
    """The one connection that was not there before."""

    def new() -> list[dict[str, str]]:
        found = [each for id, each in connections(client).items() if id not in before]
        return found if len(found) == 1 else []

    return poll("not one new connection", new)[0]


def on_the_server(connection: dict[str, str]) -> tuple[int, str, str]:
    return int(connection["db"]), connection["user"], connection["name"]


@pytest.mark.parametrize("protocol", ["2", "3"])
@pytest.mark.parametrize("user_info, rest, db, user, name", MEANINGS)
def test_a_url_means_the_same(users, client, user_info, rest, db, user, name, protocol):
    url = f"redis://{user_info}127.0.0.1:{users.port}{rest}"
    url += f"{'&' if '?' in rest else '?'}protocol={protocol}"
    before = connections(client)
    with cachetory_c.Cache(url) as ours:
        ours.set(b"key", b"value")
        ours_there = appeared(client, before)
        assert on_the_server(ours_there) == (db, user, name)
        assert ours_there["resp"] == protocol
        with redis.from_url(url) as theirs:
            assert theirs.get("key") == b"value"
            assert on_the_server(theirs.client_info()) == (db, user, name)


def test_an_option_is_decoded_once(users, client):
    url = f"{users.tcp_url}?client_name=%2541"
    before = connections(client)
    with cachetory_c.Cache(url) as ours:
        ours.ping()
        assert appeared(client, before)["name"] == "%41"
    # redis-py decoded it twice before version 8.
    with redis.from_url(url) as theirs:
        assert theirs.client_info()["name"] == ("%41" if int(redis.__version__.split(".")[0]) >= 8 else "A")


@pytest.mark.parametrize("scheme", ["unix", "redis+unix"])
@pytest.mark.parametrize(
    "user_info, query, db, user, name",
    [
        ("", "", 0, "default", ""),
        ("", "?db=3", 3, "default", ""),
        ("alice:plain@", "?db=3&client_name=x", 3, "alice", "x"),
        ("alice@", "?db=0&password=plain", 0, "alice", ""),
        (f"bob:{PASSWORD_ESCAPED}@", "", 0, "bob", ""),
    ],
)
def test_a_unix_url_means_the_same(users, client, scheme, user_info, query, db, user, name):
    path = users.unix_url.removeprefix("unix://")
    before = connections(client)
    with cachetory_c.Cache(f"{scheme}://{user_info}{path}{query}") as ours:
        ours.set(b"key", b"value")
        assert on_the_server(appeared(client, before)) == (db, user, name)
    with redis.from_url(f"unix://{user_info}{path}{query}") as theirs:
        assert theirs.get("key") == b"value"
        assert on_the_server(theirs.client_info()) == (db, user, name)


@pytest.mark.parametrize("user_info", ["alice:wrong@", "nobody:plain@", "alice@", ":wrong@"])
def test_both_are_refused_by_the_server(users, client, user_info):
    client.config_set("requirepass", "secret")
    try:
        url = f"redis://{user_info}127.0.0.1:{users.port}"
        with redis.from_url(url) as theirs, pytest.raises(redis.AuthenticationError):
            theirs.ping()
        with cachetory_c.Cache(url) as ours, pytest.raises(CachetoryError) as caught:
            ours.ping()
        assert caught.value.status == cachetory_c.ERR_AUTH
        assert not caught.value.retryable
    finally:
        client.config_set("requirepass", "")
