use std::sync::Mutex;

use super::*;

fn basic(username: &str, password: &str) -> Option<Credential> {
    Some(Credential::Basic {
        username: username.to_owned(),
        password: Secret::new(password),
    })
}

fn in_text(content: &str) -> Credentials {
    Credentials {
        documents: vec![Document {
            name: "config.json".to_owned(),
            text: Secret::new(content),
        }],
        ..Credentials::default()
    }
}

#[test]
fn entries_are_found_under_every_key_docker_and_podman_write() {
    // "dXNlcjpwYXNz" is `user:pass`.
    let entry = r#"{"auth":"dXNlcjpwYXNz"}"#;
    for (key, host, found) in [
        ("host.io", "host.io", true),
        ("https://host.io", "host.io", true),
        ("https://host.io/", "host.io", true),
        ("http://host.io", "host.io", true),
        ("https://host.io/v1/", "host.io", true),
        ("https://host.io/v2/", "host.io", true),
        ("host.io:5000", "host.io:5000", true),
        ("host.io", "host.io:5000", false),
        ("host.io:5000", "host.io", false),
        ("sub.host.io", "host.io", false),
        ("host.io.evil", "host.io", false),
        ("host.io/other", "host.io", false),
        ("host.io/team", "host.io", true),
        ("host.io/team/app", "host.io", true),
        ("https://index.docker.io/v1/", "docker.io", true),
        ("index.docker.io", "docker.io", true),
        ("docker.io", "docker.io", true),
        ("registry-1.docker.io", "docker.io", true),
        ("https://index.docker.io/v1/", "other.io", false),
    ] {
        let credentials = in_text(&format!(r#"{{"auths":{{"{key}":{entry}}}}}"#));
        let expected = if found { basic("user", "pass") } else { None };
        assert_eq!(
            credentials.lookup(host, "team/app"),
            Ok(expected),
            "{key} for {host}"
        );
    }
}

#[test]
fn the_longest_namespace_wins() {
    let credentials = in_text(
        r#"{"auths":{
            "h.io":{"username":"host","password":"1"},
            "h.io/a":{"username":"a","password":"2"},
            "h.io/a/b":{"username":"ab","password":"3"}
        }}"#,
    );
    for (repository, username, password) in [
        ("x", "host", "1"),
        ("a", "a", "2"),
        ("a/c", "a", "2"),
        ("a/b", "ab", "3"),
        ("ab", "host", "1"),
    ] {
        assert_eq!(
            credentials.lookup("h.io", repository),
            Ok(basic(username, password))
        );
    }
}

#[test]
fn every_form_of_entry_is_read() {
    for (entry, expected) in [
        (r#"{"auth":"dXNlcjpwYXNz"}"#, basic("user", "pass")),
        (r#"{"auth":"dTpwOnE="}"#, basic("u", "p:q")),
        (r#"{"auth":"dTpwOnE"}"#, basic("u", "p:q")),
        (r#"{"username":"u","password":"p"}"#, basic("u", "p")),
        (
            r#"{"auth":"dTpwOnE=","identitytoken":"idt"}"#,
            Some(Credential::IdentityToken(Secret::new("idt"))),
        ),
        (
            r#"{"registrytoken":"rt"}"#,
            Some(Credential::RegistryToken(Secret::new("rt"))),
        ),
        // `<token>:idt`
        (
            r#"{"auth":"PHRva2VuPjppZHQ="}"#,
            Some(Credential::IdentityToken(Secret::new("idt"))),
        ),
        ("{}", None),
        (r#"{"auth":""}"#, None),
    ] {
        let credentials = in_text(&format!(r#"{{"auths":{{"h":{entry}}}}}"#));
        assert_eq!(credentials.lookup("h", "r"), Ok(expected), "{entry}");
    }
}

#[test]
fn malformed_files_are_named_and_their_content_is_not() {
    for content in [
        r#"{"auths":{"h":{"auth":"s3cr3t!"}}}"#,
        r#"{"auths":{"h":{"auth":"c2VjcmV0"}}}"#,
        r#"{"auths": s3cr3t"#,
    ] {
        let error = in_text(content).lookup("h", "r").unwrap_err().to_string();
        assert!(error.contains("config.json"), "{error}");
        assert!(
            !error.contains("s3cr3t") && !error.contains("secret"),
            "{error}"
        );
    }
}

#[test]
fn nothing_shows_a_secret() {
    let credentials = in_text(r#"{"auths":{"h":{"username":"u","password":"s3cr3t"}}}"#)
        .with("x", basic("u", "s3cr3t").unwrap());
    let found = credentials.lookup("h", "r").unwrap();
    assert!(found.is_some());
    for shown in [format!("{credentials:?}"), format!("{found:?}")] {
        assert!(!shown.contains("s3cr3t"), "{shown}");
    }
}

#[test]
fn helpers_are_asked_with_dockers_keys() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    let run: RunHelper = Arc::new(move |program, verb, stdin| {
        assert_eq!(verb, "get");
        let key = String::from_utf8_lossy(stdin).into_owned();
        seen.lock().unwrap().push(format!("{program} {key}"));
        let (success, stdout) = match (program, key.as_str()) {
            ("docker-credential-store", DOCKER_HUB_KEY) => {
                (true, r#"{"ServerURL":"","Username":"hub","Secret":"s"}"#)
            }
            ("docker-credential-ecr", _) => (true, r#"{"Username":"<token>","Secret":"idt"}"#),
            ("docker-credential-broken", _) => (false, "dbus is not running"),
            _ => (false, "credentials not found in native keychain\n"),
        };
        Ok(HelperOutput {
            success,
            stdout: stdout.as_bytes().to_vec(),
        })
    });
    let credentials = in_text(
        r#"{
            "credsStore":"store",
            "credHelpers":{"1.ecr.aws":"ecr","b.io":"broken","evil.io":"../../bin/sh"},
            "auths":{"plain.io":{"username":"u","password":"p"}}
        }"#,
    );
    assert_eq!(
        credentials.lookup("docker.io", "a"),
        Ok(None),
        "no way to run helpers"
    );

    let credentials = credentials.with_helper_runner(run);
    assert_eq!(credentials.lookup("docker.io", "a"), Ok(basic("hub", "s")));
    assert_eq!(
        credentials.lookup("1.ecr.aws", "a"),
        Ok(Some(Credential::IdentityToken(Secret::new("idt"))))
    );
    assert_eq!(credentials.lookup("plain.io", "a"), Ok(basic("u", "p")));
    let error = credentials.lookup("b.io", "a").unwrap_err().to_string();
    assert!(error.contains("docker-credential-broken"), "{error}");
    assert!(credentials.lookup("evil.io", "a").is_err());
    assert_eq!(
        *calls.lock().unwrap(),
        [
            "docker-credential-store https://index.docker.io/v1/",
            "docker-credential-ecr 1.ecr.aws",
            "docker-credential-store plain.io",
            "docker-credential-broken b.io",
        ]
    );
}

#[test]
fn the_environment_names_the_places_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, user: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let content = format!(r#"{{"auths":{{"h":{{"username":"{user}","password":"p"}}}}}}"#);
        std::fs::write(&path, content).unwrap();
    };
    let mut variables: BTreeMap<&str, OsString> = BTreeMap::new();
    let at = |path: &str| folder.path().join(path).into_os_string();
    let found = |variables: &BTreeMap<&str, OsString>| {
        let credentials = Credentials::from_environment(&|name| variables.get(name).cloned());
        match credentials.lookup("h", "r").unwrap() {
            Some(Credential::Basic { username, .. }) => username,
            other => format!("{other:?}"),
        }
    };
    assert_eq!(found(&variables), "None");

    variables.insert("CI_REGISTRY", "h".into());
    variables.insert("CI_REGISTRY_USER", "ci".into());
    variables.insert("CI_REGISTRY_PASSWORD", "p".into());
    assert_eq!(found(&variables), "ci");

    variables.insert("HOME", at("home"));
    write("home/.config/containers/auth.json", "podman-home");
    assert_eq!(found(&variables), "podman-home");

    variables.insert("XDG_RUNTIME_DIR", at("run"));
    write("run/containers/auth.json", "podman");
    assert_eq!(found(&variables), "podman");

    write("home/.docker/config.json", "docker-home");
    assert_eq!(found(&variables), "docker-home");

    variables.insert("DOCKER_CONFIG", at("docker"));
    assert_eq!(found(&variables), "podman", "it replaces ~/.docker");
    write("docker/config.json", "docker");
    assert_eq!(found(&variables), "docker");

    variables.insert("REGISTRY_AUTH_FILE", at("auth"));
    write("auth", "file");
    assert_eq!(found(&variables), "file");

    let content = r#"{"auths":{"h":{"username":"variable","password":"p"}}}"#;
    variables.insert("DOCKER_AUTH_CONFIG", content.into());
    assert_eq!(found(&variables), "variable");
}
