use std::collections::BTreeMap;

use super::outline;
use crate::dockerfile::outline::Outline;
use crate::dockerfile::parse;
use crate::graph::plan::{Options, Plan};

fn outlined(text: &str, target: Option<&str>, build_args: &[(&str, &str)]) -> Outline {
    let build_args = build_args.iter();
    let options = Options {
        target: target.map(str::to_owned),
        build_args: build_args
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Options::on("linux/amd64".parse().unwrap())
    };
    let plan = Plan::new(parse(text).unwrap(), options).unwrap();
    outline(&plan, &BTreeMap::new()).unwrap()
}

/// Name, value, description and line of each argument.
fn arguments(outline: &Outline) -> Vec<(&str, &str, &str, usize)> {
    let arguments = outline.arguments.iter();
    arguments
        .map(|one| {
            let (name, value) = (one.name.as_str(), one.value.as_str());
            (name, value, one.description.as_str(), one.span.first_line)
        })
        .collect()
}

const SEVERAL: &str = "\
ARG inherited=box
ARG other=box2
ARG unused=abc${other}
# suffix ends the name
ARG suffix=\"usy${inherited}\"
FROM scratch AS first
LABEL a=1
# nothing is described here
ARG FOO=123
# BAR is a number
ARG BAR=456 TARGETARCH
FROM scratch AS second
ARG BAZ
FROM scratch AS third
ARG ABC=a$inherited
ARG inherited
# target is what all is for
FROM third AS target
COPY --from=first /etc/passwd /
FROM second
";

#[test]
fn a_target_takes_the_arguments_of_the_stages_it_needs() {
    let outline = outlined(SEVERAL, Some("target"), &[("BAR", "678")]);
    assert_eq!(
        (outline.name.as_str(), outline.description.as_str()),
        ("target", "is what all is for")
    );
    assert_eq!(
        arguments(&outline),
        [
            ("inherited", "box", "", 1),
            ("FOO", "123", "", 9),
            ("BAR", "678", "is a number", 11),
            ("ABC", "a", "", 15),
        ]
    );
    let last = outlined(SEVERAL, None, &[("BAZ", "")]);
    assert_eq!(
        (last.name.as_str(), arguments(&last)),
        ("", vec![("BAZ", "", "", 13)])
    );
}

#[test]
fn arguments_of_from_bring_those_that_they_are_made_of() {
    let text = "ARG FOO=123\nARG ABC=abc\nARG DEF=def\nARG FOO=${FOO}${ABC}\nARG BAR=${FOO}456\n\
        ARG FOO=${FOO}456${BAR}\nFROM scratch\nARG FOO\nARG IN=1\nARG BOTH=${IN}2\nARG IN=${IN}3${BOTH}\n";
    assert_eq!(
        arguments(&outlined(text, None, &[])),
        [
            ("ABC", "abc", "", 2),
            ("BAR", "123abc456", "", 5),
            ("FOO", "123abc456123abc456", "", 6),
            ("BOTH", "12", "", 10),
            ("IN", "1312", "", 11),
        ]
    );
    let text = "ARG TAG=1\nARG NAME=scr$TAG\nARG UNUSED=2\nFROM ${NAME:+scratch}\n";
    let outline = outlined(text, None, &[]);
    let names: Vec<&str> = arguments(&outline).into_iter().map(|one| one.0).collect();
    assert_eq!(names, ["TAG", "NAME"]);
}

const MOUNTS: &str = "\
FROM scratch AS first
RUN --mount=type=secret,target=/etc/passwd,required=true --mount=type=ssh true
FROM scratch AS second
RUN --mount=type=secret,id=unused --mount=type=ssh,id=ssh2 true
FROM scratch AS third
ARG BAR
WORKDIR /src
RUN --mount=type=secret,id=second${BAR} --mount=type=cache,target=out true
FROM third AS target
COPY --from=first /foo /
RUN --mount=type=ssh,id=ssh3,required --mount=type=cache,id=go,target=/go true
FROM second
";

#[test]
fn a_target_takes_the_mounts_of_the_stages_it_needs() {
    let outline = outlined(MOUNTS, Some("target"), &[("BAR", "678")]);
    let text = outline.to_text();
    assert_eq!(
        text,
        "TARGET: target\n\n\
         BUILD ARG   VALUE   DESCRIPTION\nBAR         678\n\n\
         SECRET      REQUIRED\npasswd      true\nsecond678\n\n\
         SSH       REQUIRED\ndefault\nssh3      true\n\n\
         CACHE MOUNT\n/src/out\ngo\n\n"
    );
    let json: serde_json::Value = serde_json::from_str(&outline.to_json(MOUNTS)).unwrap();
    let at =
        |line| serde_json::json!({"ranges": [{"start": {"line": line}, "end": {"line": line}}]});
    assert_eq!(
        json["args"],
        serde_json::json!([{"name": "BAR", "value": "678", "location": at(6)}])
    );
    assert_eq!(
        json["secrets"],
        serde_json::json!([
            {"name": "passwd", "required": true, "location": at(2)},
            {"name": "second678", "location": at(8)},
        ])
    );
    assert_eq!(
        json["cache"][1],
        serde_json::json!({"ID": "go", "location": at(11)})
    );
    assert_eq!(json["name"], "target");
    assert_eq!(json.get("description"), None);
}
