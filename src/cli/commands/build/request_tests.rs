use std::collections::BTreeMap;
use std::ffi::OsString;

use super::*;
use crate::build::{NetworkMode, OutputTarget};
use crate::cli::arguments::{Command, Stop, parse};
use crate::export::ArchiveFormat;

/// The request that a command line makes.
fn prepared(line: &str, environment: &[(&str, &str)]) -> Result<Prepared, Failure> {
    let environment: Environment = environment.iter().copied().collect();
    let words = std::iter::once("rbuild")
        .chain(line.split_whitespace())
        .map(OsString::from);
    match parse(words, &environment) {
        Ok(invocation) => match invocation.command {
            Command::Build(arguments) => prepare(*arguments, &environment),
            other => panic!("{line}: {other:?}"),
        },
        Err(Stop::Fail(failure)) => Err(failure),
        Err(other) => panic!("{line}: {other:?}"),
    }
}

fn message(line: &str) -> String {
    prepared(line, &[]).expect_err(line).message().to_owned()
}

fn names(prepared: &Prepared) -> Vec<String> {
    prepared
        .request
        .tags
        .iter()
        .map(|tag| tag.familiar())
        .collect()
}

fn targets(prepared: &Prepared) -> Vec<OutputTarget> {
    let outputs = prepared.request.outputs.iter();
    outputs.map(|output| output.target.clone()).collect()
}

#[test]
fn the_shortest_line() {
    let prepared = prepared("-t myapp .", &[]).unwrap();
    let request = &prepared.request;
    assert_eq!(request.context, ContextSource::Directory(".".into()));
    assert_eq!(request.dockerfile, DockerfileSource::Default);
    assert_eq!(names(&prepared), ["myapp:latest"]);
    assert_eq!(request.outputs, [Output::new(OutputTarget::Store)]);
    assert_eq!(request.network, NetworkMode::Host);
    assert_eq!(
        (request.no_cache, request.pull, request.rewrite_timestamp),
        (false, false, false)
    );
    assert_eq!(
        (
            &request.target,
            &request.platforms[..],
            request.source_date_epoch
        ),
        (&None, &[][..], None)
    );
    assert_eq!(prepared.progress, ProgressMode::Auto);
}

#[test]
fn lines_seen_in_the_wild() {
    for (line, tags, outputs) in [
        ("build .", &[][..], &[OutputTarget::Store][..]),
        (
            "build --rm -t app:dev -f Cargo.toml .",
            &["app:dev"],
            &[OutputTarget::Store],
        ),
        (
            "build --force-rm --no-cache --pull -t ghcr.io/o/app:1.0 -t ghcr.io/o/app:latest .",
            &["ghcr.io/o/app:1.0", "ghcr.io/o/app:latest"],
            &[OutputTarget::Store],
        ),
        (
            "buildx build --push --provenance=false --sbom=false --platform linux/amd64 --tag r.io/a . --load",
            &["r.io/a:latest"],
            &[
                OutputTarget::Store,
                OutputTarget::Registry { by_digest: false },
            ],
        ),
        (
            "image build --compress --network=host --progress=plain --build-arg A=1 --label v=2 -t=app .",
            &["app:latest"],
            &[OutputTarget::Store],
        ),
        (
            "builder build --builder default -tapp -q .",
            &["app:latest"],
            &[OutputTarget::Store],
        ),
        (
            "buildx build -o type=oci,dest=out.tar .",
            &[],
            &[OutputTarget::Archive {
                format: ArchiveFormat::Oci,
                dest: "out.tar".into(),
            }],
        ),
        (
            "--target builder --output=type=oci,dest=out,tar=false --load .",
            &[],
            &[
                OutputTarget::Layout { dest: "out".into() },
                OutputTarget::Store,
            ],
        ),
        (
            "-t app src --build-arg=HTTP_PROXY --isolation=default",
            &["app:latest"],
            &[OutputTarget::Store],
        ),
    ] {
        let prepared = prepared(line, &[]).unwrap_or_else(|failure| panic!("{line}: {failure:?}"));
        assert_eq!(names(&prepared), tags, "{line}");
        let targets: Vec<OutputTarget> = targets(&prepared);
        assert_eq!(targets, outputs, "{line}");
    }
}

#[test]
fn every_option_arrives() {
    let line = "build -f Cargo.toml --target t --build-arg A=1 --build-arg B --label l=2 \
                --secret id=s,env=S --no-cache --pull --network none --platform linux/arm64 \
                --iidfile i --metadata-file m -q src";
    let prepared = prepared(line, &[("B", "b")]).unwrap();
    let request = prepared.request;
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| (String::from(*name), String::from(*value)))
            .collect()
    };
    assert_eq!(request.context, ContextSource::Directory("src".into()));
    assert_eq!(
        request.dockerfile,
        DockerfileSource::File("Cargo.toml".into())
    );
    assert_eq!(request.target.as_deref(), Some("t"));
    assert_eq!(request.build_args, map(&[("A", "1"), ("B", "b")]));
    assert_eq!(request.labels, map(&[("l", "2")]));
    assert_eq!(request.secrets.len(), 1);
    assert!(request.no_cache && request.pull);
    assert_eq!(request.network, NetworkMode::None);
    assert_eq!(request.platforms, ["linux/arm64".parse().unwrap()]);
    assert_eq!(prepared.iidfile, Some("i".into()));
    assert_eq!(prepared.metadata_file, Some("m".into()));
    assert!(prepared.print_id);
}

#[test]
fn contexts_and_dockerfiles() {
    let sources = |line: &str| {
        let request = prepared(line, &[]).unwrap().request;
        (request.context, request.dockerfile)
    };
    let folder = ContextSource::Directory(".".into());
    assert_eq!(
        sources("-"),
        (ContextSource::Stdin, DockerfileSource::Default)
    );
    assert_eq!(sources("-f - ."), (folder, DockerfileSource::Stdin));
    assert_eq!(
        sources("-f a/Dockerfile -"),
        (
            ContextSource::Stdin,
            DockerfileSource::File("a/Dockerfile".into())
        )
    );
    for (line, expected) in [
        (
            "build",
            "the context is missing: the folder that COPY and ADD read from",
        ),
        (
            "-f - -",
            "standard input can't be both the context and the Dockerfile",
        ),
        ("./Cargo.toml", "the context `./Cargo.toml` is not a folder"),
        ("./no/such", "can't read the context `./no/such`"),
        (
            "https://u:p@github.com/a/b.git?depth=1",
            "can't read the git repository `https://xxxxx:xxxxx@github.com/a/b.git?depth=1`: \
             unexpected query \"depth\"",
        ),
    ] {
        assert_eq!(message(line), expected, "{line}");
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    for (line, expected) in [
        ("--push .", "a push needs a name that says where to"),
        (
            "-q --progress=plain .",
            "`--quiet` and `--progress=plain` contradict each other",
        ),
        (
            "-q --progress rawjson .",
            "`--quiet` and `--progress=rawjson` contradict each other",
        ),
        ("--progress loud .", "invalid value `loud` for `--progress`"),
        (
            "--platform linux/amd64,linux/arm64 --load .",
            "docker exporter does not currently support exporting manifest lists",
        ),
        (
            "--platform linux/amd64 --platform linux/arm64 -o type=docker,dest=a .",
            "docker exporter does not currently support exporting manifest lists",
        ),
        (
            "--platform linux/amd64,linux/arm64 -o type=local,dest=a,platform-split=false .",
            "`platform-split=false` would mix the files of several platforms",
        ),
        (
            "--network bridge .",
            "invalid value `bridge` for `--network`",
        ),
        (
            "-o type=oci,dest=a,rewrite-timestamp=true .",
            "`rewrite-timestamp=true` needs SOURCE_DATE_EPOCH",
        ),
        (
            "-o type=oci,dest=- -q .",
            "`--quiet` prints the image's id where `--output` writes the image",
        ),
        (
            "-t App .",
            "invalid image reference `App`: the repository name must be lower-case",
        ),
        (
            "--secret id=a,src=/no/such .",
            "can't read the secret `a` from `/no/such`",
        ),
    ] {
        assert_eq!(message(line), expected, "{line}");
    }
}

#[test]
fn outputs_and_switches_come_together() {
    let store = || OutputTarget::Store;
    let registry = |by_digest| OutputTarget::Registry { by_digest };
    let folder = || OutputTarget::Folder { dest: "out".into() };
    for (line, expected) in [
        ("-t a .", vec![store()]),
        ("-o out .", vec![folder()]),
        ("-o out -o type=image .", vec![folder(), store()]),
        (
            "-t r.io/a -o out --push .",
            vec![folder(), store(), registry(false)],
        ),
        (
            "-t r.io/a -o type=image --push .",
            vec![store(), registry(false)],
        ),
        (
            "-o type=image,name=r.io/a,push=true .",
            vec![store(), registry(false)],
        ),
        (
            "-t r.io/a -o type=registry .",
            vec![store(), registry(false)],
        ),
        (
            "-o type=registry,name=r.io/a,push-by-digest=true .",
            vec![store(), registry(true)],
        ),
        // The engine has still to be found.
        ("-o type=docker .", vec![]),
        ("--load .", vec![store()]),
        ("--load -o out .", vec![folder(), store()]),
    ] {
        let prepared = prepared(line, &[]).unwrap_or_else(|failure| panic!("{line}: {failure:?}"));
        assert_eq!(targets(&prepared), expected, "{line}");
    }
    for (line, expected) in [
        (
            "-o - -o type=oci .",
            "two `--output` write to standard output",
        ),
        (
            "-o - -q .",
            "`--quiet` prints the image's id where `--output` writes the image",
        ),
        (
            "-t r.io/a:1 -o type=registry,push-by-digest=true .",
            "`push-by-digest=true` pushes without a tag, but `r.io/a:1` has one",
        ),
        (
            "-o type=registry .",
            "a push needs a name that says where to",
        ),
        (
            "-o type=oci,dest=a,rewrite-timestamp=true -o type=image .",
            "`rewrite-timestamp` differs between outputs of one build",
        ),
        (
            "--annotation index:a=b .",
            "the annotation `a` is for an index, which an image for one platform has not",
        ),
    ] {
        assert_eq!(message(line), expected, "{line}");
    }
}

#[test]
fn an_engine_is_wished_for_once() {
    let wish = |line: &str, environment: &[(&str, &str)]| {
        let wish = prepared(line, environment).unwrap().engine?;
        Some((wish.engine, wish.is_required))
    };
    let docker = [("RBUILD_LOAD", "docker")];
    for (line, environment, expected) in [
        (".", &[][..], None),
        (".", &docker, None),
        ("--load .", &[], Some((None, false))),
        ("--load=true .", &[], Some((None, false))),
        ("--load=auto .", &[], Some((None, false))),
        ("--load --load=false .", &[], None),
        ("--load=podman .", &[], Some((Some(Engine::Podman), true))),
        ("--load .", &docker, Some((Some(Engine::Docker), true))),
        (
            "--load=containerd .",
            &docker,
            Some((Some(Engine::Containerd), true)),
        ),
        ("--load .", &[("RBUILD_LOAD", "store")], None),
        ("-o type=docker .", &[], Some((None, true))),
        ("-o type=docker --load .", &[], Some((None, true))),
        ("-o type=docker,dest=a .", &[], None),
        ("-o out --load .", &[], Some((None, false))),
    ] {
        assert_eq!(wish(line, environment), expected, "{line}");
    }
    assert_eq!(message("--load=lxc ."), "invalid value `lxc` for `--load`");
    let failure = prepared("--load .", &[("RBUILD_LOAD", "lxc")]).unwrap_err();
    assert_eq!(failure.message(), "invalid value `lxc` for `RBUILD_LOAD`");
    let prepared = prepared("-t a --load -o type=docker,name=b --annotation k=v .", &[]).unwrap();
    let output = prepared.engine.unwrap().output;
    assert_eq!(output.names[0].familiar(), "b:latest");
    assert_eq!(output.packaging.annotations["k"], "v");
}

#[test]
fn source_date_epoch_comes_from_an_argument_or_the_environment() {
    let epoch = |line: &str, environment: &[(&str, &str)]| {
        let request = prepared(line, environment).unwrap().request;
        let argument = request.build_args.get("SOURCE_DATE_EPOCH").cloned();
        (
            request.source_date_epoch.map(|time| time.seconds()),
            argument,
        )
    };
    let set = [("SOURCE_DATE_EPOCH", "100")];
    assert_eq!(epoch(".", &[]), (None, None));
    assert_eq!(epoch(".", &set), (Some(100), Some("100".into())));
    assert_eq!(
        epoch("--build-arg SOURCE_DATE_EPOCH=200 .", &set),
        (Some(200), Some("200".into()))
    );
    assert_eq!(
        epoch("--build-arg SOURCE_DATE_EPOCH= .", &set),
        (None, Some(String::new()))
    );
    let failure = prepared(".", &[("SOURCE_DATE_EPOCH", "yesterday")]).unwrap_err();
    assert!(
        failure
            .message()
            .starts_with("invalid SOURCE_DATE_EPOCH `yesterday`")
    );
    let line = "-o type=oci,dest=a,rewrite-timestamp=true --load .";
    assert!(prepared(line, &set).unwrap().request.rewrite_timestamp);
}

#[test]
fn the_environment_fills_in() {
    let of = |line: &str, name: &str, value: &str| prepared(line, &[(name, value)]);
    let progress = |line: &str, value: &str| of(line, "BUILDKIT_PROGRESS", value).unwrap().progress;
    assert_eq!(progress(".", "plain"), ProgressMode::Plain);
    assert_eq!(progress(".", "tty"), ProgressMode::Auto);
    assert_eq!(progress(".", ""), ProgressMode::Auto);
    assert_eq!(progress("--progress tty .", "plain"), ProgressMode::Tty);
    assert_eq!(progress("-q .", "plain"), ProgressMode::Quiet);
    assert_eq!(progress(".", "rawjson"), ProgressMode::RawJson);
    assert_eq!(progress("--progress none .", ""), ProgressMode::Nothing);
    assert!(of(".", "BUILDKIT_PROGRESS", "loud").is_err());
    for (line, value, said) in [
        ("-o - .", "quiet", "`BUILDKIT_PROGRESS=quiet` prints"),
        ("-o - --progress quiet .", "", "`--progress=quiet` prints"),
        ("-o - -q .", "quiet", "`--quiet` prints"),
    ] {
        let failure = of(line, "BUILDKIT_PROGRESS", value).unwrap_err();
        assert!(failure.message().starts_with(said), "{}", failure.message());
    }
    let platform = |line: &str, value: &str| {
        let request = of(line, "DOCKER_DEFAULT_PLATFORM", value).unwrap().request;
        let names = request.platforms.iter().map(ToString::to_string);
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(platform(".", "linux/arm64"), "linux/arm64");
    assert_eq!(
        platform("--platform linux/amd64 .", "linux/arm64"),
        "linux/amd64"
    );
    // each once, by whatever name
    assert_eq!(
        platform(
            "--platform linux/arm64,linux/x86_64 --platform linux/arm64/v8,linux/arm .",
            ""
        ),
        "linux/arm64 linux/amd64 linux/arm/v7"
    );
    assert_eq!(
        platform(".", "linux/s390x,linux/386"),
        "linux/s390x linux/386"
    );
    assert!(of(".", "DOCKER_DEFAULT_PLATFORM", "/").is_err());
}
