//! Servers that know an older form of a command only, and answers with an error in the place of an element.

use super::support::calls::{failed, for_each_face};
use super::support::capi::*;
use super::support::scripted::{Command, Scripted, array, bulk, echo, name};

const NO_USERS: &str = "-ERR wrong number of arguments for 'auth' command\r\n";
const NOT_LOGGED_IN: &str = "-NOAUTH Authentication required.\r\n";

/// Takes `AUTH password` and refuses everything else before it; AUTH with a user's name is answered by `refusal`.
fn without_users(refusal: &'static str) -> Scripted {
    Scripted::tcp(move |peer| {
        let mut is_in = false;
        while let Some(command) = peer.command() {
            let reply = match (name(&command).as_str(), command.len()) {
                ("AUTH", 2) if command[1] == b"pw" => {
                    is_in = true;
                    "+OK\r\n".into()
                }
                ("AUTH", 2) => "-WRONGPASS invalid password\r\n".into(),
                ("AUTH" | "HELLO", _) => refusal.into(),
                _ if !is_in => NOT_LOGGED_IN.into(),
                ("CLIENT" | "SELECT", _) => "+OK\r\n".into(),
                _ => echo(&command),
            };
            peer.send(reply);
        }
    })
}

fn url(server: &Scripted, login: &str, options: &str) -> String {
    server.url(options).replace("redis://", &format!("redis://{login}@"))
}

#[test]
fn a_server_without_users_is_given_the_password_alone() {
    for options in ["max_connections=1", "max_connections=1&db=3&client_name=me"] {
        for refusal in [NO_USERS, "-ERR wrong number of arguments for 'AUTH' command\r\n"] {
            for_each_face(|face| {
                let server = without_users(refusal);
                let cache = Cache::must_open(&url(&server, "app:pw", options)).with(face);
                for _ in 0..3 {
                    assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
                }
                assert_eq!(server.connections(), 1);
                let wrong = Cache::must_open(&url(&server, "app:other", options)).with(face);
                let message = failed(wrong.set("k", "v"), CACHETORY_ERR_AUTH, 0);
                assert!(message.contains("WRONGPASS"), "{message}");
            });
        }
    }
}

#[test]
fn a_server_that_knows_users_is_given_no_password_without_its_user() {
    for refusal in [
        "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
        "-NOPERM no\r\n",
        "-ERR invalid password\r\n",
        "-ERR unknown command 'auth'\r\n",
        "-ERR wrong number of arguments for 'get' command\r\n",
        "-LOADING wrong number of arguments for 'auth' command\r\n",
    ] {
        let server = without_users(refusal);
        let cache = Cache::must_open(&url(&server, "app:pw", ""));
        let failure = cache.get("k").unwrap_err();
        let expected = [CACHETORY_ERR_AUTH, CACHETORY_ERR_SERVER];
        assert!(expected.contains(&failure.status), "{failure:?}");
    }
    // redis-py falls back where it says AUTH, and not where it says HELLO.
    let server = without_users(NO_USERS);
    let cache = Cache::must_open(&url(&server, "app:pw", "protocol=3"));
    failed(cache.get("k"), CACHETORY_ERR_AUTH, 0);
}

#[test]
fn a_step_of_the_handshake_is_accepted_by_ok_and_nothing_else() {
    for reply in [
        "#f\r\n",
        "#t\r\n",
        "+denied\r\n",
        "+OKAY\r\n",
        ":1\r\n",
        "$2\r\nOK\r\n",
        "_\r\n",
        "*0\r\n",
        "*1\r\n+OK\r\n",
        "*3\r\n+server\r\n+redis\r\n+proto\r\n",
    ] {
        for options in
            ["password=pw", "db=3", "client_name=me", "protocol=3", "username=u&password=pw"]
        {
            println!("{reply:?} {options}");
            let server = Scripted::tcp(move |peer| {
                peer.command();
                peer.send(reply);
                peer.serve(echo);
            });
            let cache = Cache::must_open(&server.url(options));
            failed(cache.set("k", "v"), CACHETORY_ERR_PROTOCOL, 0);
            assert_eq!(server.count("SET"), 0);
        }
    }
}

#[test]
fn a_map_may_come_as_resp2_has_it() {
    let server = Scripted::tcp(|peer| {
        peer.command();
        peer.send("*4\r\n+server\r\n+kvrocks\r\n+proto\r\n:2\r\n");
        peer.serve(echo);
    });
    let cache = Cache::must_open(&server.url("protocol=3"));
    assert_eq!(cache.set("k", "v"), Ok(CACHETORY_OK));
}

/// Refuses commands with this name and so many arguments.
fn refusing(what: &'static str, arguments: usize, refusal: &'static str) -> Scripted {
    let reply = move |command: &Command| match name(command).as_str() {
        it if it == what && command.len() > arguments => refusal.into(),
        "SCAN" if command[1] == b"0" => array(&[bulk("7"), array(&[bulk("p:1"), bulk("q")])]),
        "SCAN" => array(&[bulk("0"), array(&[bulk("p:2"), bulk("p:3")])]),
        _ => echo(command),
    };
    Scripted::tcp(move |peer| peer.serve(reply))
}

#[test]
fn clear_does_without_async_where_that_is_refused() {
    for refusal in [
        "-ERR wrong number of arguments for 'flushdb' command\r\n",
        "-ERR syntax error\r\n",
        "-ERR Unknown option ASYNC\r\n",
        "-ERR unsupported argument\r\n",
    ] {
        for_each_face(|face| {
            let server = refusing("FLUSHDB", 1, refusal);
            let cache = Cache::must_open(&server.url("")).with(face);
            for _ in 0..2 {
                assert_eq!(cache.clear(), Ok(CACHETORY_OK), "{refusal}");
            }
            assert_eq!(server.count("FLUSHDB"), 4);
            assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
        });
    }
}

#[test]
fn clear_is_refused_where_the_server_refuses_it_for_another_reason() {
    for (refusal, status, flags) in [
        ("-NOPERM no\r\n", CACHETORY_ERR_AUTH, 0),
        ("-LOADING syntax\r\n", CACHETORY_ERR_SERVER, RETRYABLE),
        ("-OOM argument\r\n", CACHETORY_ERR_SERVER, RETRYABLE),
        ("-ERR no such thing\r\n", CACHETORY_ERR_SERVER, 0),
    ] {
        for_each_face(|face| {
            let server = refusing("FLUSHDB", 1, refusal);
            let cache = Cache::must_open(&server.url("")).with(face);
            failed(cache.clear(), status, flags);
            assert_eq!(server.count("FLUSHDB"), 1);
        });
    }
}

#[test]
fn clear_fails_as_the_plain_form_does() {
    for_each_face(|face| {
        let server = refusing("FLUSHDB", 0, "-ERR unknown command 'flushdb'\r\n");
        let cache = Cache::must_open(&server.url("")).with(face);
        let message = failed(cache.clear(), CACHETORY_ERR_SERVER, 0);
        assert!(message.contains("unknown command"), "{message}");
        assert_eq!(server.count("FLUSHDB"), 2);
        let breaks = Scripted::tcp(|peer| {
            peer.request();
            peer.send("-ERR syntax error\r\n");
            peer.serve(|_| Vec::new());
        });
        let cache = Cache::must_open(&breaks.url("socket_timeout=3")).with(face);
        let failure = cache.clear().unwrap_err();
        assert_eq!(failure.status, CACHETORY_ERR_TIMEOUT, "{failure:?}");
        assert_eq!(failure.is_maybe_applied(), breaks.count("FLUSHDB") == 2, "{failure:?}");
    });
}

#[test]
fn clear_within_a_prefix_does_without_unlink_where_that_is_unknown() {
    for refusal in [
        "-ERR unknown command 'UNLINK'\r\n",
        "-ERR unknown command `UNLINK`, with args beginning with: `p:1`, \r\n",
        "-ERR unsupported command\r\n",
    ] {
        for_each_face(|face| {
            let server = refusing("UNLINK", 0, refusal);
            let cache = Cache::must_open(&server.url("prefix=p:")).with(face);
            assert_eq!(cache.clear(), Ok(CACHETORY_OK), "{refusal}");
            assert_eq!((server.count("UNLINK"), server.count("DEL")), (1, 2));
            let removed: Vec<_> = server
                .requests()
                .into_iter()
                .filter(|request| request.name() == "DEL")
                .flat_map(|request| request.command.into_iter().skip(1))
                .collect();
            assert_eq!(removed, [&b"p:1"[..], b"p:2", b"p:3"]);
        });
    }
    let server = refusing("UNLINK", 0, "-NOPERM unknown command\r\n");
    let cache = Cache::must_open(&server.url("prefix=p:"));
    failed(cache.clear(), CACHETORY_ERR_AUTH, 0);
    assert_eq!(server.count("DEL"), 0);
}

/// Answers MGET, EXEC and SCAN by this.
fn partly(reply: &'static str) -> Scripted {
    Scripted::tcp(move |peer| {
        let mut in_transaction = false;
        peer.serve(|command| match name(command).as_str() {
            "MGET" | "EXEC" | "SCAN" => {
                in_transaction = false;
                reply.into()
            }
            "MULTI" => {
                in_transaction = true;
                b"+OK\r\n".to_vec()
            }
            "SET" if in_transaction => b"+QUEUED\r\n".to_vec(),
            _ => echo(command),
        });
    })
}

#[test]
fn an_error_in_the_place_of_an_element_is_the_servers_and_the_link_stays() {
    type Case = (&'static str, i32, u32);
    let mget: [Case; 6] = [
        ("*2\r\n$1\r\na\r\n-upstream failure\r\n", CACHETORY_ERR_SERVER, 0),
        ("*2\r\n-upstream failure\r\n_\r\n", CACHETORY_ERR_SERVER, 0),
        ("*2\r\n!16\r\nupstream failure\r\n-ERR another\r\n", CACHETORY_ERR_SERVER, 0),
        ("*2\r\n-LOADING upstream failure\r\n$-1\r\n", CACHETORY_ERR_SERVER, RETRYABLE),
        ("*2\r\n$1\r\na\r\n-NOPERM upstream failure\r\n", CACHETORY_ERR_AUTH, 0),
        // It speaks of a server behind the one that answers.
        (
            "*2\r\n$1\r\na\r\n-ERR max number of clients: upstream failure\r\n",
            CACHETORY_ERR_SERVER,
            0,
        ),
    ];
    let exec: [Case; 3] = [
        ("*2\r\n+OK\r\n-upstream failure\r\n", CACHETORY_ERR_SERVER, MAYBE_APPLIED),
        ("*2\r\n-OOM upstream failure\r\n+OK\r\n", CACHETORY_ERR_SERVER, RETRYABLE | MAYBE_APPLIED),
        // Nothing was applied.
        ("*2\r\n-upstream failure\r\n-ERR another\r\n", CACHETORY_ERR_SERVER, 0),
    ];
    for_each_face(|face| {
        for ((reply, status, flags), is_exec) in
            mget.map(|case| (case, false)).into_iter().chain(exec.map(|case| (case, true)))
        {
            println!("{reply:?}");
            let server = partly(reply);
            let cache = Cache::must_open(&server.url("max_connections=1")).with(face);
            for _ in 0..2 {
                let outcome = match is_exec {
                    true => cache.mset(&[("k", "v"), ("l", "w")], 60_000),
                    false => cache.mget(&["k", "l"]).map(|_| CACHETORY_OK),
                };
                let message = failed(outcome, status, flags);
                assert!(message.contains("upstream failure"), "{message}");
                assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
            }
            assert_eq!(server.connections(), 1);
        }
    });
}

#[test]
fn an_error_in_the_place_of_a_part_of_a_page_is_the_servers() {
    for reply in [
        "*2\r\n-upstream failure\r\n*1\r\n$3\r\np:1\r\n",
        "*2\r\n$1\r\n0\r\n-upstream failure\r\n",
        "*2\r\n$1\r\n0\r\n*2\r\n$3\r\np:1\r\n-upstream failure\r\n",
    ] {
        for_each_face(|face| {
            let server = partly(reply);
            let cache = Cache::must_open(&server.url("max_connections=1&prefix=p:")).with(face);
            let message = failed(cache.clear(), CACHETORY_ERR_SERVER, 0);
            assert_eq!(message, "upstream failure");
            assert_eq!(cache.ping(), Ok(CACHETORY_OK));
            assert_eq!((server.connections(), server.count("UNLINK")), (1, 0));
        });
    }
}

#[test]
fn an_error_deeper_than_an_element_is_a_protocol_error() {
    for reply in [
        "*2\r\n*1\r\n-no\r\n$1\r\na\r\n",
        "*2\r\n-no\r\n*0\r\n",
        "*2\r\n-no\r\n:1\r\n",
        "*3\r\n-no\r\n",
    ] {
        for_each_face(|face| {
            let server = partly(reply);
            let cache = Cache::must_open(&server.url("max_connections=1")).with(face);
            failed(cache.mget(&["k", "l"]), CACHETORY_ERR_PROTOCOL, 0);
            let outcome = cache.mset(&[("k", "v"), ("l", "w")], 60_000);
            failed(outcome, CACHETORY_ERR_PROTOCOL, MAYBE_APPLIED);
        });
    }
}
