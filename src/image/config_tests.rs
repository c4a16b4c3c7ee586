use super::*;
use proptest::prelude::*;

const DIFF: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn rewritten(json: &str) -> String {
    String::from_utf8(ImageConfig::from_bytes(json.as_bytes()).unwrap().to_bytes()).unwrap()
}

#[test]
fn scratch_has_a_path_and_a_working_directory() {
    let config = ImageConfig::empty(&Platform::new("linux", "arm", Some("v7")));
    assert_eq!(
        String::from_utf8(config.to_bytes()).unwrap(),
        r#"{"architecture":"arm","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"WorkingDir":"/"},"history":[],"os":"linux","rootfs":{"type":"layers","diff_ids":[]},"variant":"v7"}"#
    );
}

#[test]
fn everything_that_docker_writes_is_kept_in_its_order() {
    let json = format!(
        r#"{{"architecture":"amd64","author":"me","config":{{"User":"1000:1000","ExposedPorts":{{"443/tcp":{{}},"80/tcp":{{}}}},"Env":["PATH=/bin","A=1=2"],"Entrypoint":["/e"],"Cmd":["-x"],"Volumes":{{"/data":{{}}}},"WorkingDir":"/w","Labels":{{"a":"1","b":"2"}},"StopSignal":"SIGINT","ArgsEscaped":true,"Healthcheck":{{"Test":["CMD","true"],"Interval":30000000000,"Timeout":1,"StartPeriod":2,"StartInterval":3,"Retries":4}},"OnBuild":["RUN x"],"Shell":["/bin/ash","-c"]}},"created":"2023-11-14T22:13:20.123456789Z","history":[{{"created":"2023-11-14T22:13:20Z","created_by":"RUN x","author":"me","comment":"c","empty_layer":true}}],"os":"linux","os.features":["f"],"os.version":"1","rootfs":{{"type":"layers","diff_ids":["{DIFF}"]}},"variant":"v2"}}"#
    );
    assert_eq!(rewritten(&json), json);
}

#[test]
fn unknown_members_survive_at_every_level() {
    let json = r#"{"architecture":"amd64","config":{"Cmd":["a"],"Hostname":"h"},"docker_version":"1.2","history":[{"created_by":"a","mood":[1,null]}],"moby.buildkit.cache.v0":{"z":1,"a":2},"os":"linux","rootfs":{"type":"layers","diff_ids":[],"base":1}}"#;
    assert_eq!(rewritten(json), json);
}

#[test]
fn null_is_empty() {
    let config = ImageConfig::from_bytes(
        br#"{"created":null,"author":null,"os":null,"config":{"Env":null,"Cmd":null,"ExposedPorts":null,
            "Labels":null,"Volumes":null,"OnBuild":null,"Healthcheck":null,"ArgsEscaped":null,"User":null},
            "rootfs":{"type":"layers","diff_ids":null},"history":null}"#,
    )
    .unwrap();
    let mut expected = ImageConfig::default();
    expected.rootfs.kind = "layers".to_owned();
    assert_eq!(config, expected);
    assert_eq!(
        ImageConfig::from_bytes(b"{\"config\":null,\"rootfs\":null,\"created\":\"\"}").unwrap(),
        ImageConfig::default()
    );
}

#[test]
fn what_is_not_a_config_is_refused_with_the_place() {
    for (json, expected) in [
        ("{", "EOF while parsing"),
        ("[]", "invalid type: sequence"),
        (r#"{"config":{"Env":"A=1"}}"#, "expected a sequence"),
        (
            r#"{"rootfs":{"diff_ids":["sha256:00"]}}"#,
            "invalid digest `sha256:00`",
        ),
        (r#"{"created":"yesterday"}"#, "digit"),
    ] {
        let ImageError::Malformed { source, .. } =
            ImageConfig::from_bytes(json.as_bytes()).unwrap_err()
        else {
            panic!("{json}");
        };
        assert!(source.to_string().contains(expected), "{json}: {source}");
    }
    let large = vec![b' '; CONFIG_LIMIT as usize + 1];
    assert!(matches!(
        ImageConfig::from_bytes(&large),
        Err(ImageError::TooLarge { .. })
    ));
}

#[test]
fn a_variable_is_replaced_in_its_place() {
    let mut config = ExecutionConfig::default();
    for (name, value) in [("A", "1"), ("B", "2"), ("A", "3=4"), ("AB", "")] {
        config.set_env(name, value);
    }
    assert_eq!(config.env, ["A=3=4", "B=2", "AB="]);
    assert_eq!(config.env("A"), Some("3=4"));
    assert_eq!(config.env("AB"), Some(""));
    assert_eq!(config.env("C"), None);
}

#[test]
fn a_parsed_config_keeps_its_bytes_and_is_named_by_them() {
    let bytes = b"{ \"os\":\"linux\", \"architecture\" : \"arm64\",\"variant\":\"v8\"}".to_vec();
    let parsed = ParsedConfig::from_bytes(bytes.clone()).unwrap();
    assert_eq!(parsed.bytes(), bytes);
    assert_eq!(parsed.id(), ImageId(Digest::of(&bytes)));
    assert_eq!(parsed.config.platform().to_string(), "linux/arm64");
}

#[test]
fn history_is_counted_against_layers() {
    let mut config = ImageConfig::empty(&Platform::host());
    assert!(config.history_matches_layers());
    config.push_history(None, "ENV A=1", true);
    assert!(config.history_matches_layers());
    config.push_history(Some(Timestamp::from_seconds(0)), "COPY a b", false);
    assert!(!config.history_matches_layers());
    config.rootfs.diff_ids.push(DIFF.parse().unwrap());
    assert!(config.history_matches_layers());
}

proptest! {
    #[test]
    fn writing_and_reading_gives_the_same_value(
        env in proptest::collection::vec("\\PC*", 0..4),
        labels in proptest::collection::btree_map("\\PC{0,9}", "(?s).{0,9}", 0..4),
        user in "\\PC*",
        seconds in -62_135_596_800_i64..253_402_300_799,
        interval in any::<i64>(),
        empty in any::<bool>(),
    ) {
        let mut config = ImageConfig::empty(&Platform::host());
        config.created = Some(Timestamp::from_seconds(seconds));
        config.config.env = env;
        config.config.labels = labels;
        config.config.user = user;
        config.config.healthcheck = Some(Healthcheck { interval, ..Healthcheck::default() });
        config.push_history(config.created, "RUN x", empty);
        let bytes = config.to_bytes();
        let read = ImageConfig::from_bytes(&bytes).unwrap();
        prop_assert_eq!(&read, &config);
        prop_assert_eq!(read.to_bytes(), bytes);
    }

    #[test]
    fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = ImageConfig::from_bytes(&bytes);
    }
}
