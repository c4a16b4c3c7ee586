use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::{Arc, Mutex};

use super::*;
use crate::registry::{HelperOutput, Secret};

fn basic(username: &str, password: &str) -> Credential {
    Credential::Basic {
        username: username.to_owned(),
        password: Secret::new(password),
    }
}

fn no_helper() -> RunHelper {
    Arc::new(|program, _, _| panic!("{program} is not to be run"))
}

fn in_folder(folder: &Path) -> CredentialFile {
    CredentialFile::new(folder.join("config.json"), no_helper())
}

#[test]
fn a_credential_is_kept_found_and_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/config.json");
    let file = CredentialFile::new(path.clone(), no_helper());
    assert_eq!(file.find("host:5000"), Ok(None));
    let kept = file.store("host:5000", "me", &basic("me", "p:w")).unwrap();
    assert_eq!(kept, Kept::File(path.clone()));
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        "{\n\t\"auths\": {\n\t\t\"host:5000\": {\n\t\t\t\"auth\": \"bWU6cDp3\"\n\t\t}\n\t}\n}"
    );
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let parent = fs::metadata(path.parent().unwrap()).unwrap();
    assert_eq!(parent.permissions().mode() & 0o777, 0o700);
    assert_eq!(file.find("host:5000"), Ok(Some(basic("me", "p:w"))));
    assert_eq!(file.find("host"), Ok(None));

    file.store("docker.io", "hub", &basic("hub", "x")).unwrap();
    assert!(
        fs::read_to_string(&path)
            .unwrap()
            .contains("\"https://index.docker.io/v1/\"")
    );
    assert_eq!(file.find("docker.io"), Ok(Some(basic("hub", "x"))));

    file.erase("host:5000").unwrap();
    file.erase("host:5000").unwrap();
    assert_eq!(file.find("host:5000"), Ok(None));
    assert_eq!(file.find("docker.io"), Ok(Some(basic("hub", "x"))));
    let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing half written stays: {left:?}");
}

#[test]
fn an_identity_token_is_kept_with_the_users_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = in_folder(folder.path());
    let token = Credential::IdentityToken(Secret::new("long"));
    file.store("host", "me", &token).unwrap();
    assert_eq!(file.find("host"), Ok(Some(token)));
    let text = fs::read_to_string(folder.path().join("config.json")).unwrap();
    assert!(text.contains(r#""auth": "bWU6""#), "{text}");
}

#[test]
fn everything_else_stays_in_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let before = r#"{"zebra": [1, 2.5, null], "auths": {"b": {"auth": "eDp5"}, "host": {"auth": "eDp5", "email": "e"},
        "https://host/v1/": {"auth": "eDp5"}, "host/team": {"auth": "eDp5"}}, "alpha": {"y": 1, "x": 2}}"#;
    fs::write(&path, before).unwrap();
    let file = in_folder(folder.path());
    let members =
        || -> Value { serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap() };
    let keys =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    file.store("host", "me", &basic("me", "pw")).unwrap();
    file.store("c", "me", &basic("me", "pw")).unwrap();
    let after = members();
    assert_eq!(keys(&after), ["zebra", "auths", "alpha"]);
    assert_eq!(
        keys(&after["auths"]),
        ["b", "host", "https://host/v1/", "host/team", "c"]
    );
    assert_eq!(keys(&after["alpha"]), ["y", "x"]);
    assert_eq!(after["zebra"], json!([1, 2.5, null]));
    assert_eq!(after["auths"]["host"], json!({"auth": "bWU6cHc="}));

    // What Podman keeps for a part of the registry is no login of Docker's.
    file.erase("host").unwrap();
    assert_eq!(keys(&members()["auths"]), ["b", "host/team", "c"]);
}

#[test]
fn a_link_is_followed_and_stays_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let dotfiles = folder.path().join("dotfiles");
    fs::create_dir(&dotfiles).unwrap();
    symlink("dotfiles/second", folder.path().join("config.json")).unwrap();
    symlink("real.json", dotfiles.join("second")).unwrap();
    let file = in_folder(folder.path());
    file.store("host", "me", &basic("me", "pw")).unwrap();
    assert!(
        fs::symlink_metadata(folder.path().join("config.json"))
            .unwrap()
            .is_symlink()
    );
    assert!(
        fs::symlink_metadata(dotfiles.join("real.json"))
            .unwrap()
            .is_file()
    );
    assert_eq!(file.find("host"), Ok(Some(basic("me", "pw"))));

    symlink("loop", folder.path().join("loop")).unwrap();
    let file = CredentialFile::new(folder.path().join("loop"), no_helper());
    assert!(file.store("host", "me", &basic("me", "pw")).is_err());
}

#[test]
fn a_file_that_is_not_dockers_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    for content in ["{ s3cr3t", "[]", r#"{"auths": "s3cr3t"}"#] {
        fs::write(&path, content).unwrap();
        let error = in_folder(folder.path())
            .store("host", "me", &basic("me", "hunter2"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("config.json"), "{error}");
        assert!(
            !error.contains("s3cr3t") && !error.contains("hunter2"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
}

#[test]
fn a_helper_keeps_the_password_and_the_file_just_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    fs::write(
        &path,
        r#"{"credsStore": "all", "credHelpers": {"own.io": "own", "broken.io": "broken"}}"#,
    )
    .unwrap();
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    let run: RunHelper = Arc::new(move |program, verb, input| {
        let input = String::from_utf8_lossy(input).into_owned();
        seen.lock()
            .unwrap()
            .push(format!("{program} {verb} {input}"));
        Ok(HelperOutput {
            success: program != "docker-credential-broken" && verb != "erase",
            stdout: match verb {
                "erase" => b"credentials not found in native keychain".to_vec(),
                _ => b"hunter2 is no password".to_vec(),
            },
        })
    });
    let file = CredentialFile::new(path.clone(), run);
    let kept = file.store("docker.io", "me", &basic("me", "pw")).unwrap();
    assert_eq!(kept, Kept::Helper("all".to_owned()));
    let token = Credential::IdentityToken(Secret::new("long"));
    file.store("own.io", "me", &token).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.contains("\"https://index.docker.io/v1/\": {}"),
        "{text}"
    );
    assert!(text.contains("\"own.io\": {}"), "{text}");
    let error = file
        .store("broken.io", "me", &basic("me", "hunter2"))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "credential helper `docker-credential-broken` failed: it exited with an error"
    );
    file.erase("own.io").unwrap();
    assert!(
        !fs::read_to_string(&path)
            .unwrap()
            .contains("\"own.io\": {}")
    );
    assert_eq!(
        *calls.lock().unwrap(),
        [
            r#"docker-credential-all store {"ServerURL":"https://index.docker.io/v1/","Username":"me","Secret":"pw"}"#,
            r#"docker-credential-own store {"ServerURL":"own.io","Username":"<token>","Secret":"long"}"#,
            r#"docker-credential-broken store {"ServerURL":"broken.io","Username":"me","Secret":"hunter2"}"#,
            "docker-credential-own erase own.io",
        ]
    );
}

#[test]
fn logins_at_the_same_time_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let path = folder.path();
            scope.spawn(move || {
                let host = format!("host{number}");
                in_folder(path)
                    .store(&host, "me", &basic("me", "pw"))
                    .unwrap();
            });
        }
    });
    for number in 0..8 {
        let found = in_folder(folder.path()).find(&format!("host{number}"));
        assert_eq!(found, Ok(Some(basic("me", "pw"))));
    }
}
