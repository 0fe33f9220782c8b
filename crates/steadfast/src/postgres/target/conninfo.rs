//! Reads connection strings (URL or key=value) and `PG*` variables into named text parameters.
//!
//! Invariant: no error made here repeats a value, because any piece of a mistyped string may be part of a password.

use std::collections::HashMap;

use super::error::TargetError;

/// Where the process environment (or a test's stand-in for it) is read from.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What happens to a parameter that libpq documents.
enum Support {
    /// Read by `settings.rs`.
    Honoured,
    /// Has no effect on this client and none on safety: accepted, said once in the log.
    Ignored,
    /// Only these values ask for something that this client does anyway.
    Only(&'static [&'static str], &'static str),
    /// Ignoring it would connect to the wrong place or less safely than asked.
    Refused(&'static str),
}

struct Parameter {
    name: &'static str,
    env: Option<&'static str>,
    support: Support,
}

const fn honoured(name: &'static str, env: Option<&'static str>) -> Parameter {
    Parameter {
        name,
        env,
        support: Support::Honoured,
    }
}

const fn ignored(name: &'static str, env: Option<&'static str>) -> Parameter {
    Parameter {
        name,
        env,
        support: Support::Ignored,
    }
}

const fn refused(name: &'static str, env: Option<&'static str>, why: &'static str) -> Parameter {
    Parameter {
        name,
        env,
        support: Support::Refused(why),
    }
}

const fn only(
    name: &'static str,
    env: Option<&'static str>,
    values: &'static [&'static str],
    why: &'static str,
) -> Parameter {
    Parameter {
        name,
        env,
        support: Support::Only(values, why),
    }
}

/// Every parameter that libpq documents, with its environment variable.
static PARAMETERS: &[Parameter] = &[
    honoured("host", Some("PGHOST")),
    honoured("hostaddr", Some("PGHOSTADDR")),
    honoured("port", Some("PGPORT")),
    honoured("dbname", Some("PGDATABASE")),
    honoured("user", Some("PGUSER")),
    honoured("password", Some("PGPASSWORD")),
    honoured("passfile", Some("PGPASSFILE")),
    honoured("connect_timeout", Some("PGCONNECT_TIMEOUT")),
    honoured("application_name", Some("PGAPPNAME")),
    honoured("fallback_application_name", None),
    honoured("options", Some("PGOPTIONS")),
    honoured("keepalives", None),
    honoured("keepalives_idle", None),
    honoured("keepalives_interval", None),
    honoured("keepalives_count", None),
    honoured("tcp_user_timeout", None),
    honoured("sslmode", Some("PGSSLMODE")),
    honoured("sslrootcert", Some("PGSSLROOTCERT")),
    honoured("sslcert", Some("PGSSLCERT")),
    honoured("sslkey", Some("PGSSLKEY")),
    honoured("sslcertmode", Some("PGSSLCERTMODE")),
    honoured("sslsni", Some("PGSSLSNI")),
    honoured("sslnegotiation", Some("PGSSLNEGOTIATION")),
    honoured("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION")),
    honoured("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION")),
    honoured("channel_binding", Some("PGCHANNELBINDING")),
    honoured("target_session_attrs", Some("PGTARGETSESSIONATTRS")),
    honoured("load_balance_hosts", Some("PGLOADBALANCEHOSTS")),
    only(
        "client_encoding",
        None,
        &["utf8", "utf-8", "unicode", "auto"],
        "the client speaks UTF-8 only",
    ),
    only(
        "gssencmode",
        Some("PGGSSENCMODE"),
        &["disable", "prefer"],
        "GSS encryption is not supported",
    ),
    only(
        "replication",
        None,
        &["false", "off", "no", "0"],
        "replication connections are not supported",
    ),
    only(
        "min_protocol_version",
        Some("PGMINPROTOCOLVERSION"),
        &["3.0"],
        "the client speaks protocol 3.0",
    ),
    only(
        "max_protocol_version",
        Some("PGMAXPROTOCOLVERSION"),
        &["3.0", "latest"],
        "the client speaks protocol 3.0",
    ),
    ignored("sslcompression", Some("PGSSLCOMPRESSION")),
    ignored("krbsrvname", Some("PGKRBSRVNAME")),
    ignored("gsslib", Some("PGGSSLIB")),
    ignored("gssdelegation", Some("PGGSSDELEGATION")),
    refused("service", Some("PGSERVICE"), "connection service files are not read"),
    refused("servicefile", None, "connection service files are not read"),
    refused(
        "require_auth",
        Some("PGREQUIREAUTH"),
        "authentication methods cannot be restricted by the client",
    ),
    refused(
        "requirepeer",
        Some("PGREQUIREPEER"),
        "the server's operating system user is not checked",
    ),
    refused("sslpassword", None, "encrypted private keys are not supported"),
    refused("sslcrl", Some("PGSSLCRL"), "revocation lists are not supported"),
    refused("sslcrldir", Some("PGSSLCRLDIR"), "revocation lists are not supported"),
    refused("sslkeylogfile", None, "TLS keys are never logged"),
    refused("scram_client_key", None, "SCRAM pass-through is not supported"),
    refused("scram_server_key", None, "SCRAM pass-through is not supported"),
    refused("oauth_issuer", None, "OAuth is not supported"),
    refused("oauth_client_id", None, "OAuth is not supported"),
    refused("oauth_client_secret", None, "OAuth is not supported"),
    refused("oauth_scope", None, "OAuth is not supported"),
];

/// Parameter values by name. A value that was given empty stays here, so that the environment does not replace it.
#[derive(Default)]
pub(super) struct Params {
    values: HashMap<&'static str, String>,
    /// The parameter before this one is a password, which an unquoted blank or `&` may have cut short.
    after_password: bool,
}

impl Params {
    /// Reads a connection string of either form.
    pub(super) fn parse(conninfo: &str) -> Result<Self, TargetError> {
        let mut params = Self::default();
        match conninfo
            .strip_prefix("postgresql://")
            .or_else(|| conninfo.strip_prefix("postgres://"))
        {
            // A URL kept in a file or a secret store often ends with a line break, which no URL contains.
            Some(rest) => params.read_url(rest.trim_end())?,
            None => params.read_pairs(conninfo)?,
        }
        Ok(params)
    }

    /// Fills what the string left open from the environment, then refuses what this client cannot do.
    pub(super) fn complete(&mut self, env: Env<'_>) -> Result<(), TargetError> {
        for parameter in PARAMETERS {
            if let Some(variable) = parameter.env
                && !self.values.contains_key(parameter.name)
                && let Some(value) = env(variable).filter(|value| !value.is_empty())
            {
                self.values.insert(parameter.name, value);
            }
            self.check_support(parameter)?;
        }
        Ok(())
    }

    /// The value, unless it is missing or empty (which libpq treats alike).
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    fn check_support(&self, parameter: &Parameter) -> Result<(), TargetError> {
        let name = parameter.name;
        let Some(value) = self.get(name) else { return Ok(()) };
        let reason = match &parameter.support {
            Support::Honoured => return Ok(()),
            Support::Ignored => {
                tracing::warn!(parameter = name, "connection parameter has no effect on this client");
                return Ok(());
            }
            Support::Only(values, _) if values.iter().any(|known| known.eq_ignore_ascii_case(value)) => return Ok(()),
            Support::Only(_, reason) | Support::Refused(reason) => reason,
        };
        Err(TargetError::Unsupported {
            parameter: name,
            reason,
        })
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), TargetError> {
        // Documented by libpq for strings written for JDBC.
        let (name, value) = if name == "ssl" && value == "true" {
            ("sslmode", "require".into())
        } else {
            (name, value)
        };
        let Some(parameter) = PARAMETERS.iter().find(|parameter| parameter.name == name) else {
            return Err(TargetError::unknown(name, self.after_password));
        };
        if value.contains('\0') {
            return Err(TargetError::invalid(parameter.name, "contains a NUL character"));
        }
        self.values.insert(parameter.name, value);
        self.after_password = parameter.name == "password";
        Ok(())
    }

    fn set_nonempty(&mut self, name: &str, value: String) -> Result<(), TargetError> {
        if value.is_empty() {
            Ok(())
        } else {
            self.set(name, value)
        }
    }

    /// `[user[:password]@][host[:port],…][/dbname][?name=value&…]`, the scheme already taken off.
    fn read_url(&mut self, rest: &str) -> Result<(), TargetError> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, dbname) = rest.split_once('/').unwrap_or((rest, ""));
        // The last `@`: a host never contains one, and a piece of a password must not end up in a host name.
        let hosts = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => {
                let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
                self.set_nonempty("user", decode(user)?)?;
                self.set_nonempty("password", decode(password)?)?;
                hosts
            }
            // `user:pass/word@host`: what looks like host, port and database is the beginning of a password.
            None if dbname.contains('@') => {
                return Err(TargetError::Syntax(
                    "a `/` in the user name or password must be written as %2F",
                ));
            }
            None => authority,
        };
        self.read_hosts(hosts)?;
        self.set_nonempty("dbname", decode(dbname)?)?;
        // A `?` in a password: what follows it looks like parameters.
        self.after_password |= query.contains('@');
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(TargetError::Syntax("a query parameter has no `=`"));
            };
            self.set(&decode(name)?, decode(value)?)?;
        }
        Ok(())
    }

    fn read_hosts(&mut self, list: &str) -> Result<(), TargetError> {
        let mut hosts = Vec::new();
        let mut ports = Vec::new();
        for entry in list.split(',') {
            let (host, port) = match entry.strip_prefix('[') {
                Some(literal) => {
                    let Some((address, tail)) = literal.split_once(']') else {
                        return Err(TargetError::Syntax("an IPv6 address has no closing `]`"));
                    };
                    match (tail, tail.strip_prefix(':')) {
                        ("", _) => (address, ""),
                        (_, Some(port)) => (address, port),
                        _ => {
                            return Err(TargetError::Syntax(
                                "an IPv6 address is followed by neither `:` nor `,`",
                            ));
                        }
                    }
                }
                None => entry.split_once(':').unwrap_or((entry, "")),
            };
            hosts.push(decode(host)?);
            ports.push(decode(port)?);
        }
        if hosts.iter().any(|host| !host.is_empty()) || hosts.len() > 1 {
            self.set("host", hosts.join(","))?;
        }
        if ports.iter().any(|port| !port.is_empty()) {
            self.set("port", ports.join(","))?;
        }
        Ok(())
    }

    /// `name = value name='quoted \' value' …`
    fn read_pairs(&mut self, text: &str) -> Result<(), TargetError> {
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let Some((name, after)) = rest.split_once('=') else {
                return Err(TargetError::Syntax("a parameter has no `=`"));
            };
            let name = name.trim_end();
            if name.contains(char::is_whitespace) {
                return Err(TargetError::Syntax("a parameter has no `=`"));
            }
            let (value, after) = take_value(after.trim_start())?;
            self.set(name, value)?;
            rest = after.trim_start();
        }
        Ok(())
    }
}

/// Takes one value, quoted or not, off the front; a backslash makes the next character literal in both.
fn take_value(text: &str) -> Result<(String, &str), TargetError> {
    let (quoted, body) = match text.strip_prefix('\'') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, literal)| literal)),
            '\'' if quoted => return Ok((value, &body[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &body[at..])),
            c => value.push(c),
        }
    }
    if quoted {
        Err(TargetError::Syntax("a quoted value has no closing quote"))
    } else {
        Ok((value, ""))
    }
}

/// Undoes percent-encoding; `+` stays `+`, as in libpq.
fn decode(text: &str) -> Result<String, TargetError> {
    const BAD: TargetError = TargetError::Syntax("a `%` is not followed by two hexadecimal digits (write % as %25)");
    let mut bytes = Vec::with_capacity(text.len());
    let mut input = text.bytes();
    while let Some(byte) = input.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(input.next()), digit(input.next())) else {
            return Err(BAD);
        };
        match u8::try_from(high * 16 + low) {
            Ok(0) | Err(_) => return Err(TargetError::Syntax("%00 is not allowed")),
            Ok(decoded) => bytes.push(decoded),
        }
    }
    String::from_utf8(bytes).map_err(|_| TargetError::Syntax("percent-encoded text is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(conninfo: &str, name: &str) -> Option<String> {
        Params::parse(conninfo).unwrap().get(name).map(str::to_owned)
    }

    #[test]
    fn urls() {
        for (url, name, expected) in [
            ("postgres://", "host", None),
            ("postgresql://localhost", "host", Some("localhost")),
            ("postgres://localhost:5433/", "port", Some("5433")),
            ("postgres://localhost/mydb", "dbname", Some("mydb")),
            ("postgres://user@localhost", "user", Some("user")),
            ("postgres://user:secret@localhost", "password", Some("secret")),
            ("postgres://user:@localhost", "password", None),
            ("postgres://u:a%40b%2Fc%3a%25@h/d", "password", Some("a@b/c:%")),
            ("postgres://u:a@b@h/d", "password", Some("a@b")),
            ("postgres://u:a@b@h/d", "host", Some("h")),
            ("postgres://h1:1,h2,h3:3/d", "host", Some("h1,h2,h3")),
            ("postgres://h1:1,h2,h3:3/d", "port", Some("1,,3")),
            ("postgres://[2001:db8::1234]/d", "host", Some("2001:db8::1234")),
            ("postgres://[::1]:77,h2:78/d", "port", Some("77,78")),
            ("postgres://%2Fvar%2Frun/d", "host", Some("/var/run")),
            ("postgres:///d?host=/tmp&port=9", "host", Some("/tmp")),
            ("postgres://h/d?host=other", "host", Some("other")),
            (
                "postgres://h?user=x&application_name=a+b",
                "application_name",
                Some("a+b"),
            ),
            ("postgres://h/d?options=-c%20a=b", "options", Some("-c a=b")),
            ("postgres://h/d?ssl=true", "sslmode", Some("require")),
            ("postgres://h/d\n", "dbname", Some("d")),
        ] {
            assert_eq!(get(url, name).as_deref(), expected, "{url} {name}");
        }
    }

    #[test]
    fn pairs() {
        for (text, name, expected) in [
            ("", "host", None),
            ("host=h port = 5 ", "port", Some("5")),
            ("password='it''", "password", None),
            (r"password='it\'s \\ ok' user=u", "password", Some(r"it's \ ok")),
            (r"password=a\ b user=u", "password", Some("a b")),
            ("user='' password=x", "user", None),
            ("user= password=x", "user", Some("password=x")),
            ("host=\th1,h2\n port=1", "host", Some("h1,h2")),
        ] {
            match Params::parse(text) {
                Ok(params) => assert_eq!(params.get(name), expected, "{text}"),
                Err(_) => assert_eq!(text, "password='it''", "only this one is malformed"),
            }
        }
    }

    #[test]
    fn mistakes_are_named_without_values() {
        for (text, expected) in [
            ("postgres://h/d?sslmodus=x", "unknown connection parameter `sslmodus`"),
            (
                "postgres://h/d?a/s3cret@h=x",
                "unknown connection parameter (its name is not an identifier)",
            ),
            ("colour=s3cret", "unknown connection parameter `colour`"),
            ("host=h s3cret", "invalid connection string: a parameter has no `=`"),
            (
                "host=h 's3cret x' user=u",
                "invalid connection string: a parameter has no `=`",
            ),
            (
                "password='s3cret",
                "invalid connection string: a quoted value has no closing quote",
            ),
            (
                "postgres://u:5432/s3cret@h/d",
                "invalid connection string: a `/` in the user name or password must be written as %2F",
            ),
            (
                "postgres://u:x?s3cret@h/d",
                "invalid connection string: a query parameter has no `=`",
            ),
            (
                "postgres://u:%zzs3cret@h/d",
                "invalid connection string: a `%` is not followed by two hexadecimal digits (write % as %25)",
            ),
            ("postgres://u:%00@h/d", "invalid connection string: %00 is not allowed"),
            (
                "postgres://[::1",
                "invalid connection string: an IPv6 address has no closing `]`",
            ),
            (
                "postgres://[::1]5",
                "invalid connection string: an IPv6 address is followed by neither `:` nor `,`",
            ),
        ] {
            let error = Params::parse(text).err().unwrap().to_string();
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn environment_fills_only_what_is_open() {
        let env = |name: &str| match name {
            "PGHOST" => Some("envhost".to_owned()),
            "PGUSER" => Some("envuser".to_owned()),
            "PGPORT" => Some(String::new()),
            _ => None,
        };
        let mut params = Params::parse("user=mine host=''").unwrap();
        params.complete(&env).unwrap();
        assert_eq!(params.get("user"), Some("mine"));
        assert_eq!(
            params.get("host"),
            None,
            "an empty value given on purpose asks for the default"
        );
        assert_eq!(params.get("port"), None);
        let mut params = Params::parse("postgres:///d").unwrap();
        params.complete(&env).unwrap();
        assert_eq!(params.get("host"), Some("envhost"));
    }

    #[test]
    fn what_cannot_be_done_is_refused_and_what_does_no_harm_is_not() {
        for text in [
            "service=x",
            "gssencmode=require",
            "require_auth=scram-sha-256",
            "client_encoding=latin1",
        ] {
            let name = text.split('=').next().unwrap();
            let error = Params::parse(text).unwrap().complete(&|_| None).unwrap_err();
            assert!(
                matches!(error, TargetError::Unsupported { parameter, .. } if parameter == name),
                "{text}"
            );
        }
        let harmless = "gssencmode=prefer krbsrvname=postgres sslcompression=0 client_encoding=UTF8 replication=off";
        Params::parse(harmless).unwrap().complete(&|_| None).unwrap();
        let service = |name: &str| (name == "PGSERVICE").then(|| "prod".to_owned());
        assert!(Params::parse("").unwrap().complete(&service).is_err());
    }
}
