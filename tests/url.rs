//! The URL grammar, as tables: what each URL means, and what is said about those that mean nothing.

use std::ffi::{CStr, CString};
use std::fmt::Write;
use std::path::PathBuf;

use cachetory::config::{Config, Target};
use cachetory::error::{CACHETORY_ERR_INVALID_URL, CACHETORY_ERR_UNSUPPORTED, CACHETORY_OK};
use cachetory::ffi::cache::{cachetory_close, cachetory_open_url};
use cachetory::ffi::types::{cachetory_error_t, cachetory_t};
use redis::{ConnectionAddr, ConnectionInfo, ProtocolVersion};

/// URL → what it means: the target, then every setting that is not the default.
const GOOD: &[(&str, &str)] = &[
    // redis-py's documentation: redis://[[username]:[password]]@localhost:6379/0,
    // unix://[username@]/path/to/socket.sock?db=0[&password=password]
    ("redis://localhost:6379/0", "tcp localhost 6379"),
    ("redis://@localhost:6379/0", "tcp localhost 6379"),
    ("redis://:@localhost:6379/0", "tcp localhost 6379"),
    ("redis://username:@localhost:6379/0", r#"tcp localhost 6379 username="username""#),
    ("redis://:password@localhost:6379/0", r#"tcp localhost 6379 password="password""#),
    (
        "redis://username:password@localhost:6379/0",
        r#"tcp localhost 6379 username="username" password="password""#,
    ),
    (
        "rediss://username:password@localhost:6379/0",
        r#"tls localhost 6379 username="username" password="password""#,
    ),
    ("unix:///path/to/socket.sock?db=0", "unix /path/to/socket.sock"),
    (
        "unix://username@/path/to/socket.sock?db=0",
        "unix /path/to/socket.sock username=\"username\"",
    ),
    (
        "unix://username@/path/to/socket.sock?db=0&password=password",
        r#"unix /path/to/socket.sock username="username" password="password""#,
    ),
    ("redis://localhost?db=0", "tcp localhost 6379"),
    // redis-py's tests
    ("redis://my.host", "tcp my.host 6379"),
    ("redis://my %2F host %2B%3D+", "tcp my / host +=+ 6379"),
    ("redis://localhost:6380", "tcp localhost 6380"),
    ("redis://myuser:@localhost", r#"tcp localhost 6379 username="myuser""#),
    (
        "redis://%2Fmyuser%2F%2B name%3D%24+:@localhost",
        r#"tcp localhost 6379 username="/myuser/+ name=$+""#,
    ),
    ("redis://:mypassword@localhost", r#"tcp localhost 6379 password="mypassword""#),
    (
        "redis://:%2Fmypass%2F%2B word%3D%24+@localhost",
        r#"tcp localhost 6379 password="/mypass/+ word=$+""#,
    ),
    (
        "redis://myuser:mypass@localhost",
        r#"tcp localhost 6379 username="myuser" password="mypass""#,
    ),
    ("redis://localhost/2", "tcp localhost 6379 db=2"),
    ("redis://localhost/2?db=3", "tcp localhost 6379 db=3"),
    (
        "redis://localhost/2?socket_timeout=20&socket_connect_timeout=10&socket_keepalive=\
         &retry_on_timeout=Yes&max_connections=10",
        "tcp localhost 6379 db=2 timeout=20s connect_timeout=10s max_connections=10",
    ),
    (
        "redis://localhost/2?socket_timeout=20&max_connections=10&timeout=42",
        "tcp localhost 6379 db=2 timeout=20s max_connections=10",
    ),
    ("redis://location?client_name=test-client", r#"tcp location 6379 client_name="test-client""#),
    (
        "redis://location?client_name=worker%2520name",
        r#"tcp location 6379 client_name="worker%20name""#,
    ),
    ("redis://localhost?protocol=2", "tcp localhost 6379"),
    ("redis://localhost?protocol=3", "tcp localhost 6379 resp3"),
    ("unix:///socket", "unix /socket"),
    ("unix://myuser:@/socket", r#"unix /socket username="myuser""#),
    ("unix://%2Fmyuser%2F%2B name%3D%24+:@/socket", r#"unix /socket username="/myuser/+ name=$+""#),
    ("unix://:mypassword@/socket", r#"unix /socket password="mypassword""#),
    (
        "unix://:mypassword@/my%2Fpath%2Fto%2F..%2F+_%2B%3D%24ocket",
        r#"unix /my/path/to/../+_+=$ocket password="mypassword""#,
    ),
    ("unix:///socket?db=2", "unix /socket db=2"),
    ("rediss://my.host", "tls my.host 6379"),
    (
        "rediss://?ssl_cert_reqs=none",
        "tls insecure localhost 6379 verify=false check_hostname=false",
    ),
    ("rediss://?ssl_cert_reqs=optional", "tls localhost 6379"),
    ("rediss://?ssl_cert_reqs=required", "tls localhost 6379"),
    ("rediss://?ssl_check_hostname=False", "tls insecure localhost 6379 check_hostname=false"),
    ("rediss://?ssl_check_hostname=True", "tls localhost 6379"),
    ("redis://localhost:6379?db=0", "tcp localhost 6379"),
    // Schemes
    ("valkey://h", "tcp h 6379"),
    ("valkeys://h", "tls h 6379"),
    ("redis+unix:///s", "unix /s"),
    ("valkey+unix:///s", "unix /s"),
    ("RediS://h", "tcp h 6379"),
    ("VALKEYS+Cluster://h", "cluster [tls h 6379]"),
    ("memory://", "memory"),
    ("dummy://", "dummy"),
    ("memory://?max_bytes=10m&prefix=a", r#"memory prefix="a" max_bytes=10485760"#),
    ("dummy://?prefix=a#fragment", r#"dummy prefix="a""#),
    // Several hosts
    ("redis+cluster://", "cluster [tcp localhost 6379]"),
    ("redis+cluster://a,b:7001,[::1]:7002", "cluster [tcp a 6379, tcp b 7001, tcp ::1 7002]"),
    (
        "valkey+cluster://u:p@a,b?ssl_cert_reqs=none",
        r#"cluster [tcp a 6379, tcp b 6379] username="u" password="p" verify=false check_hostname=false"#,
    ),
    (
        "rediss+cluster://a,b?ssl_cert_reqs=none",
        "cluster [tls insecure a 6379, tls insecure b 6379] verify=false check_hostname=false",
    ),
    ("redis+sentinel://a/main", r#"sentinel [tcp a 26379] "main""#),
    (
        "redis+sentinel://u:p@a,b:26380/my%20main/3",
        r#"sentinel [tcp a 26379, tcp b 26380] "my main" db=3 username="u" password="p""#,
    ),
    ("valkey+sentinel://a/main/?db=2", r#"sentinel [tcp a 26379] "main" db=2"#),
    ("valkeys+sentinel://a/main/1", r#"sentinel [tls a 26379] "main" db=1"#),
    // Hosts and ports
    ("redis://", "tcp localhost 6379"),
    ("redis:///", "tcp localhost 6379"),
    ("redis:///4", "tcp localhost 6379 db=4"),
    ("redis://:7000", "tcp localhost 7000"),
    ("redis://h:", "tcp h 6379"),
    ("redis://:p@", r#"tcp localhost 6379 password="p""#),
    ("redis://My.Host", "tcp my.host 6379"),
    ("redis://127.0.0.1:1", "tcp 127.0.0.1 1"),
    ("redis://h:65535", "tcp h 65535"),
    ("redis://[::1]", "tcp ::1 6379"),
    ("redis://[2001:DB8::1]:7000/1", "tcp 2001:db8::1 7000 db=1"),
    ("redis://[fe80::1%25eth0]:7000", "tcp fe80::1%eth0 7000"),
    ("redis://[fe80::1%eth0]", "tcp fe80::1%eth0 6379"),
    ("redis://u:p@[::1]:7000", r#"tcp ::1 7000 username="u" password="p""#),
    // Paths
    ("redis://h/", "tcp h 6379"),
    ("redis://h/%31/", "tcp h 6379 db=1"),
    ("redis://h/2147483647", "tcp h 6379 db=2147483647"),
    ("redis://h/1#fragment", "tcp h 6379 db=1"),
    ("redis://h/1\n", "tcp h 6379 db=1"),
    ("unix:///a@b?db=1", "unix /a@b db=1"),
    ("unix:///a%3Fb%23c", "unix /a?b#c"),
    // Raw delimiters in a password
    ("redis://u:p@ss@h", r#"tcp h 6379 username="u" password="p@ss""#),
    ("redis://u:p:ss@h", r#"tcp h 6379 username="u" password="p:ss""#),
    ("redis://u:p/ss@h:7000/1", r#"tcp h 7000 db=1 username="u" password="p/ss""#),
    ("redis://u:p#ss@h:7000/1", r#"tcp h 7000 db=1 username="u" password="p#ss""#),
    ("redis://u:p?ss@h:7000/1", r#"tcp h 7000 db=1 username="u" password="p?ss""#),
    ("redis://:12/34@h", r#"tcp h 6379 password="12/34""#),
    ("redis://:12?34@h", r#"tcp h 6379 password="12?34""#),
    ("redis://:p/@ss@h", r#"tcp h 6379 password="p/@ss""#),
    ("redis://:p@s/s:w?o#rd@h:1/2?db=3", r#"tcp h 1 db=3 password="p@s/s:w?o#rd""#),
    ("redis://:p/ss@h?prefix=me@home", r#"tcp h 6379 password="p/ss" prefix="me@home""#),
    ("redis://:p/%40@[::1]:1", r#"tcp ::1 1 password="p/@""#),
    ("unix://u:p/ss@/path?db=1", r#"unix /path db=1 username="u" password="p/ss""#),
    ("unix://:p@s#s@/path", r#"unix /path password="p@s#s""#),
    ("redis+cluster://:p/s@a:1,b", r#"cluster [tcp a 1, tcp b 6379] password="p/s""#),
    ("redis+sentinel://:p/s@a/main", r#"sentinel [tcp a 26379] "main" password="p/s""#),
    // What redis-py can read, it reads otherwise
    ("redis://u#p@h", "tcp u 6379"),
    ("redis://h/1?prefix=a@b", r#"tcp h 6379 db=1 prefix="a@b""#),
    // Users and passwords
    ("redis://u@h", r#"tcp h 6379 username="u""#),
    ("redis://u:%C3%A4@h", r#"tcp h 6379 username="u" password="ä""#),
    ("redis://:a+b@h", r#"tcp h 6379 password="a+b""#),
    ("redis://h?username=u&password=a+b", r#"tcp h 6379 username="u" password="a b""#),
    ("redis://u:p@h?username=x&password=y", r#"tcp h 6379 username="u" password="p""#),
    ("redis://u@h?password=y", r#"tcp h 6379 username="u" password="y""#),
    // Options in general
    ("redis://h?", "tcp h 6379"),
    ("redis://h?&db=1&&", "tcp h 6379 db=1"),
    ("redis://h?db=1&db=2", "tcp h 6379 db=1"),
    ("redis://h?db=&db=2", "tcp h 6379 db=2"),
    ("redis://h/5?db=&socket_timeout=&prefix=&protocol=", "tcp h 6379 db=5"),
    ("redis://h?db", "tcp h 6379"),
    ("redis://h?d%62=3", "tcp h 6379 db=3"),
    ("redis://h?db=+3", "tcp h 6379 db=3"),
    ("redis://h?db=%2B3", "tcp h 6379 db=3"),
    ("redis://h?db=1_0", "tcp h 6379 db=10"),
    (
        "redis://h?decode_responses=True&encoding=x&encoding_errors=x&retry_on_timeout=x\
         &retry_on_error=x&timeout=x",
        "tcp h 6379",
    ),
    ("redis://h?ssl_keyfile=k&max_bytes=1k", r#"tcp h 6379 keyfile="k" max_bytes=1024"#),
    (
        "memory://?db=1&password=x&ssl_cert_reqs=none&socket_timeout=1",
        "memory timeout=1s verify=false",
    ),
    // Times
    ("redis://h?socket_timeout=0.25", "tcp h 6379 timeout=250ms"),
    (
        "redis://h?socket_timeout=.5&socket_connect_timeout=1e1",
        "tcp h 6379 timeout=500ms connect_timeout=10s",
    ),
    ("redis://h?socket_timeout=1e-10", "tcp h 6379 timeout=1µs"),
    ("redis://h?socket_timeout=1e300", "tcp h 6379 timeout=3153600000s"),
    ("redis://h?socket_timeout=1e400", "tcp h 6379 timeout=3153600000s"),
    ("redis://h?socket_connect_timeout=10", "tcp h 6379 connect_timeout=10s"),
    ("redis://h?health_check_interval=30", "tcp h 6379 health_check=30s"),
    ("redis://h?health_check_interval=0.5", "tcp h 6379 health_check=500ms"),
    ("redis://h?health_check_interval=0", "tcp h 6379"),
    // Booleans: redis-py's words for false
    ("redis://h?socket_keepalive=0", "tcp h 6379 keepalive=false"),
    ("redis://h?socket_keepalive=f", "tcp h 6379 keepalive=false"),
    ("redis://h?socket_keepalive=False", "tcp h 6379 keepalive=false"),
    ("redis://h?socket_keepalive=n", "tcp h 6379 keepalive=false"),
    ("redis://h?socket_keepalive=No", "tcp h 6379 keepalive=false"),
    ("redis://h?socket_keepalive=1", "tcp h 6379"),
    ("redis://h?socket_keepalive=Yes", "tcp h 6379"),
    // Numbers
    ("redis://h?max_connections=1", "tcp h 6379 max_connections=1"),
    ("redis://h?max_connections=2147483648", "tcp h 6379 max_connections=65536"),
    ("redis://h?max_pending=1", "tcp h 6379 max_pending=1"),
    ("redis://h?spin_us=0", "tcp h 6379 spin=0ns"),
    ("redis://h?spin_us=1000000", "tcp h 6379 spin=1s"),
    ("memory://?max_bytes=0", "memory"),
    ("memory://?max_bytes=1000", "memory max_bytes=1000"),
    ("memory://?max_bytes=2K", "memory max_bytes=2048"),
    ("memory://?max_bytes=3g", "memory max_bytes=3221225472"),
    // Prefixes are bytes
    ("redis://h?prefix=app%3A", r#"tcp h 6379 prefix="app:""#),
    ("redis://h?prefix=a+b%2Bc", r#"tcp h 6379 prefix="a b+c""#),
    ("redis://h?prefix=%FF%00", r#"tcp h 6379 prefix="\xff\x00""#),
    // TLS
    (
        "rediss://h?ssl_ca_certs=/ca.pem&ssl_ca_path=/ca&ssl_certfile=/c.pem&ssl_keyfile=/k.pem",
        r#"tls h 6379 ca_certs="/ca.pem" ca_path="/ca" certfile="/c.pem" keyfile="/k.pem""#,
    ),
    ("rediss://h?ssl_certfile=/both.pem", r#"tls h 6379 certfile="/both.pem""#),
];

/// URL → what the message says. The password in them, as a whole or with a delimiter in it, is `s3cr3t` and `w0rd`.
const BAD: &[(&str, &str)] = &[
    ("", "no scheme"),
    ("localhost", "no scheme"),
    ("redis:foo.bar.com:12345", "no scheme"),
    ("user:s3cr3t@host", "no scheme"),
    ("http://h", r#"unknown scheme "http""#),
    ("http://u:s3cr3t@h", r#"unknown scheme "http""#),
    ("redis+tls://h", r#"unknown scheme "redis+tls""#),
    ("valkeyx://h", r#"unknown scheme "valkeyx""#),
    ("u:s3cr3t://h", "unknown scheme"),
    ("://h", "unknown scheme"),
    // No address
    ("memory:///", "no user, host or path"),
    ("memory://h", "no user, host or path"),
    ("memory://u:s3cr3t@", "no user, host or path"),
    ("dummy:///0", "no user, host or path"),
    ("memory://?max_bytes=1x", r#"option max_bytes must be a whole number of bytes"#),
    // Hosts and ports
    ("redis://h:0", "port"),
    ("redis://h:65536", "port"),
    ("redis://h:-1", "port"),
    ("redis://h:+1", "port"),
    ("redis://h:x", "port"),
    ("redis://::1", "port"),
    ("redis://[::1", "bracket"),
    ("redis://[::1]x", "bracket"),
    ("redis://[::1]:x", "port"),
    ("redis://[h]", "IPv6"),
    ("redis://[127.0.0.1]", "IPv6"),
    ("redis://[fe80::1%]", "zone"),
    ("redis://a,b", "host"),
    ("redis://h%00", "host"),
    ("redis://h%zz", "broken escape in the host"),
    ("redis+cluster://a,,b", "host"),
    ("redis+cluster://a,b:0", "port"),
    ("redis+sentinel://a", "name of a service"),
    ("redis+sentinel://a/", "name of a service"),
    ("redis+sentinel://a/main/x", "path must be a database"),
    ("redis+sentinel://a/main/1/2", "path must be a database"),
    // Paths
    ("redis://h/x", "path must be a database"),
    ("redis://h/-1", "path must be a database"),
    ("redis://h/1/2", "path must be a database"),
    ("redis://h/2147483648", "path must be a database"),
    ("redis://h/x?db=1", "path must be a database"),
    ("redis://h/%zz", r#"broken escape "%zz" in the path"#),
    ("redis://h/%", r#"broken escape "%" in the path"#),
    ("redis://h/%C3", "path is not UTF-8"),
    ("unix://", "needs a path"),
    ("unix:///", "needs a path"),
    ("unix://u:s3cr3t@", "needs a path"),
    ("unix://path/to.sock", "no host"),
    ("unix:///a%00b", "NUL"),
    ("unix:///a%4", r#"broken escape "%4" in the path"#),
    // Users and passwords
    ("redis://u:s3cr3t%zzw0rd@h", "broken escape in the password"),
    ("redis://u:s3cr3t%@h", "broken escape in the password"),
    ("redis://s3cr3t%zz:x@h", "broken escape in the user name"),
    ("redis://u:%FFs3cr3t@h", "password is not UTF-8"),
    ("redis://h?password=s3cr3t%zz", "broken escape in option password"),
    ("redis://h?username=s3cr3t%FF", "option username must be UTF-8"),
    ("redis://h?password=s3cr3t%FF", "option password must be UTF-8"),
    // Options
    ("redis://h?bogus=1", r#"unknown option "bogus""#),
    ("redis://h?bogus", r#"unknown option "bogus""#),
    ("redis://h?bogus=", r#"unknown option "bogus""#),
    ("redis://h?DB=1", r#"unknown option "DB""#),
    ("redis://u:s3cr3t@h?bogus=1", r#"unknown option "bogus""#),
    ("memory://?bogus=1", r#"unknown option "bogus""#),
    ("redis://h?db=1&b%6Fgus=1", r#"unknown option "bogus""#),
    ("redis://h?%zz=1", r#"broken escape "%zz" in the name of an option"#),
    ("redis://h?prefix=%zz", r#"broken escape "%zz" in option prefix"#),
    ("redis://h?encoding=%zz", r#"broken escape "%zz" in option encoding"#),
    ("redis://h?db=-1", r#"option db must be a whole number from 0 to 2147483647, not "-1""#),
    ("redis://h?db=x", r#"option db must be a whole number from 0 to 2147483647, not "x""#),
    ("redis://h?db=1.5", r#"not "1.5""#),
    ("redis://h?db=1__0", r#"not "1__0""#),
    ("redis://h?db=_1", r#"not "_1""#),
    ("redis://h?db=2147483648", r#"not "2147483648""#),
    ("redis://h?db=99999999999999999999", r#"not "99999999999999999999""#),
    ("unix:///s?db=x", r#"option db must be"#),
    (
        "redis://h?socket_timeout=0",
        r#"option socket_timeout must be a number of seconds above 0, not "0""#,
    ),
    ("redis://h?socket_timeout=-1", r#"not "-1""#),
    ("redis://h?socket_timeout=nan", r#"not "nan""#),
    ("redis://h?socket_timeout=inf", r#"not "inf""#),
    ("redis://h?socket_timeout=-Infinity", r#"not "-Infinity""#),
    (
        "redis://localhost/2?socket_timeout=_&socket_connect_timeout=abc",
        r#"option socket_timeout must be a number of seconds above 0, not "_""#,
    ),
    (
        "redis://h?socket_connect_timeout=5s",
        r#"option socket_connect_timeout must be a number of seconds above 0, not "5s""#,
    ),
    ("redis://h?health_check_interval=-1", "option health_check_interval must be"),
    ("redis://h?max_connections=0", "option max_connections must be a whole number, 1 or more"),
    ("redis://h?max_connections=-1", "option max_connections must be a whole number, 1 or more"),
    ("redis://h?max_pending=0", "option max_pending must be a whole number, 1 or more"),
    ("redis://h?protocol=1", r#"option protocol must be 2 or 3, not "1""#),
    ("redis://h?protocol=resp3", r#"option protocol must be 2 or 3, not "resp3""#),
    ("redis://h?spin_us=1000001", "option spin_us must be a whole number from 0 to 1000000"),
    ("redis://h?spin_us=-1", "option spin_us must be a whole number from 0 to 1000000"),
    ("redis://h?max_bytes=-1", "option max_bytes must be"),
    ("redis://h?max_bytes=k", "option max_bytes must be"),
    ("redis://h?max_bytes=10mb", "option max_bytes must be"),
    ("redis://h?max_bytes=1.5g", "option max_bytes must be"),
    ("redis://h?max_bytes=18446744073709551616", "option max_bytes must be"),
    ("redis://h?max_bytes=99999999999g", "option max_bytes must be"),
    ("redis://h?client_name=a+b", "option client_name must be printable ASCII without spaces"),
    ("redis://h?client_name=a%0Ab", "option client_name must be"),
    ("redis://h?client_name=a%00b", "option client_name must be"),
    ("redis://h?client_name=%C3%A4", "option client_name must be"),
    ("rediss://h?ssl_cert_reqs=NONE", "option ssl_cert_reqs must be required, optional or none"),
    (
        "redis://h?ssl_cert_reqs=CERT_NONE",
        "option ssl_cert_reqs must be required, optional or none",
    ),
    ("rediss://h?ssl_keyfile=/k.pem", "option ssl_keyfile needs ssl_certfile"),
    ("rediss://h?ssl_ca_certs=a%00", "option ssl_ca_certs must be"),
    ("rediss://h?ssl_ca_path=%FF", "option ssl_ca_path must be UTF-8"),
    // Raw delimiters in a password, where the rest is wrong as well, or where it is no password
    ("redis://u:s3cr3t/w0rd", "port"),
    ("redis://u:s3cr3t#w0rd", "port"),
    ("redis://u:s3cr3t?w0rd=1", "port"),
    ("redis://u:s3cr3t/w0rd@h:x", "port"),
    ("redis://u:s3cr3t/w0rd@h/x", "path must be a database"),
    ("redis://u:s3cr3t/w0rd@h?bogus=1", r#"unknown option "bogus""#),
    ("redis://u:s3cr3t?w0rd@h?db=x", r#"option db must be"#),
    ("redis://u:12?w0rd=s3cr3t@h", "unknown option (not shown"),
    ("redis://u:12?db=s3cr3t@h", "option db must be a whole number from 0 to 2147483647"),
    ("redis://u:12?db=1&w0rd@h", "unknown option (not shown"),
    ("redis://u:12/%zs3cr3t@h h", "broken escape in the path"),
    ("redis://u:1@2/s3cr3t%zz@h h", "broken escape in the path"),
    ("redis://h?password=s3cr3t&w0rd=1", "unknown option (not shown"),
    ("redis://h?password=s3cr3t&db=w0rd", "option db must be"),
    ("redis://h?db=0?password=s3cr3t", "option db must be"),
    ("redis://localhost:6379/0?clientname=me@home", "unknown option (not shown"),
    ("redis://localhost:bad/0?prefix=me@home", "port"),
    ("redis://u:s3cr3t@h/x?prefix=me@home", "path must be a database"),
    ("redis://u/s3cr3t@h", "path must be a database"),
];

fn describe(url: &str) -> Result<String, String> {
    let config = Config::parse(url).map_err(|error| {
        assert_eq!(error.status(), CACHETORY_ERR_INVALID_URL, "{url}");
        assert!(!error.is_retryable() && !error.maybe_applied, "{url}");
        error.to_string()
    })?;
    let mut text = match &config.target {
        Target::Memory => "memory".to_owned(),
        Target::Dummy => "dummy".to_owned(),
        Target::Redis(info) => address(info) + &login(info),
        Target::Cluster(nodes) => {
            assert!(nodes.iter().all(|node| login(node) == login(&nodes[0])), "{url}");
            format!("cluster [{}]{}", addresses(nodes), login(&nodes[0]))
        }
        Target::Sentinel { sentinels, service, settings } => {
            assert!(sentinels.iter().all(|sentinel| login(sentinel).is_empty()), "{url}");
            format!("sentinel [{}] {service:?}{}", addresses(sentinels), login(settings))
        }
    };
    describe_options(&config, &mut text);
    Ok(text)
}

fn addresses(nodes: &[ConnectionInfo]) -> String {
    nodes.iter().map(address).collect::<Vec<_>>().join(", ")
}

fn address(info: &ConnectionInfo) -> String {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) => format!("tcp {host} {port}"),
        ConnectionAddr::TcpTls { host, port, insecure: false, .. } => format!("tls {host} {port}"),
        ConnectionAddr::TcpTls { host, port, .. } => format!("tls insecure {host} {port}"),
        ConnectionAddr::Unix(path) => format!("unix {}", path.display()),
        other => format!("unexpected {other:?}"),
    }
}

fn login(info: &ConnectionInfo) -> String {
    let settings = info.redis_settings();
    let mut text = String::new();
    if settings.db() != 0 {
        write!(text, " db={}", settings.db()).unwrap();
    }
    if let Some(username) = settings.username() {
        write!(text, " username={username:?}").unwrap();
    }
    if let Some(password) = settings.password() {
        write!(text, " password={password:?}").unwrap();
    }
    if settings.protocol() != ProtocolVersion::RESP2 {
        text.push_str(" resp3");
    }
    text
}

/// How a setting is written in the tables.
type Setting = (&'static str, fn(&Config) -> String);

const SETTINGS: [Setting; 16] = [
    ("client_name", |it| format!("{:?}", it.client_name.as_deref().unwrap_or_default())),
    ("timeout", |it| format!("{:?}", it.timeout)),
    ("connect_timeout", |it| format!("{:?}", it.connect_timeout)),
    ("max_connections", |it| it.max_connections.to_string()),
    ("keepalive", |it| it.keepalive.to_string()),
    ("health_check", |it| format!("{:?}", it.health_check_interval.unwrap_or_default())),
    ("verify", |it| it.tls.verify.to_string()),
    ("check_hostname", |it| it.tls.check_hostname.to_string()),
    ("ca_certs", |it| path(&it.tls.ca_certs)),
    ("ca_path", |it| path(&it.tls.ca_path)),
    ("certfile", |it| path(&it.tls.certfile)),
    ("keyfile", |it| path(&it.tls.keyfile)),
    ("prefix", |it| format!("\"{}\"", it.prefix.escape_ascii())),
    ("max_pending", |it| it.max_pending.to_string()),
    ("spin", |it| format!("{:?}", it.spin)),
    ("max_bytes", |it| it.max_bytes.to_string()),
];

fn path(path: &Option<PathBuf>) -> String {
    format!("{:?}", path.clone().unwrap_or_default())
}

fn describe_options(config: &Config, text: &mut String) {
    let default = Config::parse("memory://").unwrap_or_else(|error| panic!("{error}"));
    for (name, show) in SETTINGS {
        if show(config) != show(&default) {
            write!(text, " {name}={}", show(config)).unwrap();
        }
    }
}

#[test]
fn good_urls_mean_what_they_say() {
    let wrong: Vec<_> = GOOD
        .iter()
        .map(|&(url, expected)| (url, Ok(expected.to_owned()), describe(url)))
        .filter(|(_, expected, found)| expected != found)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn bad_urls_are_named() {
    let wrong: Vec<_> = BAD
        .iter()
        .map(|&(url, expected)| (url, expected, describe(url)))
        .filter(|(_, expected, found)| !found.as_ref().is_err_and(|text| text.contains(expected)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_message_has_a_piece_of_a_password() {
    for (url, _) in BAD {
        let message = describe(url).unwrap_err();
        assert!(!message.contains("s3cr3t") && !message.contains("w0rd"), "{url}: {message}");
    }
}

#[test]
fn defaults_are_finite() {
    let Ok(config) = Config::parse("redis://") else { panic!("redis:// is a URL") };
    assert_eq!(config.timeout.as_secs(), 5);
    assert_eq!(config.connect_timeout.as_secs(), 2);
    assert!(config.keepalive && config.tls.verify && config.tls.check_hostname);
    assert_eq!(config.health_check_interval, None);
    assert_eq!(config.max_bytes, 0);
    assert_eq!(config.max_pending, 65536);
}

/// xorshift: the same sequence at every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }
}

/// Text that a URL may be mangled with.
const HOSTILE: &[&str] = &[
    "@", ":", "/", "#", "?", "&", "=", "%", "%zz", "%4", "%00", "%FF", "%40", "[", "]", ",", "+",
    " ", "\n", "ä", "\u{212a}", "-", "_", ".", "0", "65536", "::", "//", "://", "?db=", "&db=x",
    "?bogus=1", "@h", "/x",
];

fn insert(random: &mut Random, url: &mut String, from: usize) {
    let places: Vec<_> = (from..=url.len()).filter(|at| url.is_char_boundary(*at)).collect();
    let at = places[random.below(places.len())];
    url.insert_str(at, HOSTILE[random.below(HOSTILE.len())]);
}

#[test]
fn whatever_is_put_into_a_url_no_message_has_a_piece_of_the_password() {
    const SECRET: &str = "hQ-zXw9!jKvY";
    let bases = [
        "redis://:hQ-zXw9!jKvY@h:6379/0?db=1",
        "rediss://user:hQ-zXw9!jKvY@h/0?prefix=p&ssl_cert_reqs=none",
        "unix://user:hQ-zXw9!jKvY@/path/to.sock?db=1",
        "redis+cluster://user:hQ-zXw9!jKvY@a:1,b:2",
        "redis+sentinel://user:hQ-zXw9!jKvY@a:1,b:2/main/0",
        "redis://h:6379/0?password=hQ-zXw9!jKvY&db=1",
        "memory://user:hQ-zXw9!jKvY@h/",
    ];
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for round in 0..40_000 {
        let base = bases[round % bases.len()];
        let from = base.find("://").unwrap() + 3;
        let mut url = base.to_owned();
        for _ in 0..=random.below(4) {
            insert(&mut random, &mut url, from);
        }
        let Err(message) = describe(&url) else { continue };
        for at in 0..=SECRET.len() - 3 {
            assert!(!message.contains(&SECRET[at..at + 3]), "{url:?}: {message}");
        }
    }
}

#[test]
fn whatever_the_url_reading_it_ends_without_a_panic() {
    let mut random = Random(42);
    for round in 0..40_000 {
        let (base, _) = GOOD[round % GOOD.len()];
        let mut chars: Vec<char> = base.chars().collect();
        for _ in 0..=random.below(4) {
            if !chars.is_empty() && random.below(2) == 0 {
                chars.remove(random.below(chars.len()));
            }
            if random.below(8) == 0 {
                chars.truncate(random.below(chars.len() + 1));
            }
        }
        let mut url: String = chars.into_iter().collect();
        insert(&mut random, &mut url, 0);
        let _ = describe(&url);
    }
}

/// Opens `url` as a C caller does, and closes it again.
fn open(url: &[u8]) -> (i32, String) {
    let url = CString::new(url).unwrap();
    let mut cache = cachetory_t::default();
    let mut error = cachetory_error_t { status: 99, flags: 99, message: [1; 504] };
    // SAFETY: the pointers are to locals.
    let status = unsafe { cachetory_open_url(url.as_ptr(), &mut cache, &mut error) };
    assert_eq!((error.status, error.flags), (status, 0));
    assert_eq!(status == CACHETORY_OK, cache.id != 0);
    assert_eq!(cachetory_close(cache), CACHETORY_OK);
    // SAFETY: the library terminated it.
    let message = unsafe { CStr::from_ptr(error.message.as_ptr()) };
    (status, message.to_str().unwrap().to_owned())
}

#[test]
fn a_c_caller_sees_status_and_message() {
    for url in ["memory://", "dummy://", "redis://u:p@h/1", "rediss://h", "unix:///s?db=1"] {
        assert_eq!(open(url.as_bytes()), (CACHETORY_OK, String::new()), "{url}");
    }
    for (url, expected) in BAD {
        let (status, message) = open(url.as_bytes());
        assert_eq!(status, CACHETORY_ERR_INVALID_URL, "{url}");
        assert!(message.contains(expected), "{url}: {message}");
    }
    assert_eq!(open(b"redis://\xff").0, CACHETORY_ERR_INVALID_URL);
    for url in ["redis+cluster://a,b", "valkeys+sentinel://a/main"] {
        assert_eq!(open(url.as_bytes()).0, CACHETORY_ERR_UNSUPPORTED, "{url}");
    }
    let (status, _) = open(b"redis+cluster://a?bogus=1");
    assert_eq!(status, CACHETORY_ERR_INVALID_URL, "what is wrong is said before what is missing");
}
