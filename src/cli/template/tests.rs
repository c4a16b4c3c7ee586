use proptest::prelude::*;
use serde_json::json;

use super::*;

fn image() -> Value {
    json!({
        "Id": "sha256:0123456789abcdef",
        "RepoTags": ["app:1", "app:latest"],
        "Size": 4210,
        "Author": "",
        "Parent": null,
        "Config": {
            "Cmd": ["sh", "-c", "true"],
            "Entrypoint": null,
            "Labels": {"org.example.version": "1.2", "team": "x"},
            "OnBuild": null,
            "Volumes": {},
            "User": "nobody",
        },
    })
}

fn rendered(template: &str) -> String {
    let template: Template = template.parse().unwrap();
    template.render(&image()).unwrap()
}

fn refused(template: &str) -> String {
    let result = template.parse::<Template>();
    let error = result.and_then(|template| template.render(&image()));
    error.unwrap_err().reason
}

#[test]
fn templates_as_people_write_them_for_docker() {
    for (template, expected) in [
        ("plain", "plain"),
        ("{{.Id}}", "sha256:0123456789abcdef"),
        ("{{ .Config.User }}:{{.Size}}", "nobody:4210"),
        ("{{json .Config.Cmd}}", r#"["sh","-c","true"]"#),
        ("{{.Config.Cmd}}", "[sh -c true]"),
        ("{{json .Config.Entrypoint}}", "null"),
        ("{{.Parent}}", "<no value>"),
        (r#"{{index .Config.Labels "org.example.version"}}"#, "1.2"),
        (r#"{{index .Config.Labels "none"}}"#, ""),
        ("{{index .RepoTags 0}}", "app:1"),
        ("{{(index .RepoTags 1) | upper}}", "APP:LATEST"),
        (r#"{{join .RepoTags ", "}}"#, "app:1, app:latest"),
        (r#"{{.Id | printf "%.10s"}}"#, "sha256:012"),
        ("{{range .RepoTags}}{{.}} {{end}}", "app:1 app:latest "),
        (
            "{{range $i, $tag := .RepoTags}}{{$i}}={{$tag}};{{end}}",
            "0=app:1;1=app:latest;",
        ),
        (
            "{{range $k, $v := .Config.Labels}}{{$k}}={{println $v}}{{end}}",
            "org.example.version=1.2\nteam=x\n",
        ),
        ("{{range .Config.Entrypoint}}x{{else}}none{{end}}", "none"),
        (
            "{{if .Author}}by {{.Author}}{{else}}nobody{{end}}",
            "nobody",
        ),
        (
            "{{if eq .Size 1}}a{{else if gt .Size 4000}}b{{else}}c{{end}}",
            "b",
        ),
        ("{{with .Config}}{{.User}}{{end}}{{$.Size}}", "nobody4210"),
        ("{{$u := .Config.User}}{{$u}}", "nobody"),
        ("{{len .RepoTags}}", "2"),
        ("{{if and .Size (not .Author)}}yes{{end}}", "yes"),
        ("{{or .Author .Config.User}}", "nobody"),
        ("a  {{- /* gone */ -}}  b", "ab"),
        ("a {{- .Size -}} b", "a4210b"),
        (r#"{{"}}"}}{{`raw "x"`}}"#, r#"}}raw "x""#),
        (r#"{{index (split .Id ":") 1}}"#, "0123456789abcdef"),
        ("{{slice .Id 7 19}}", "0123456789ab"),
        ("{{truncate .Id 9}}", "sha256:01"),
        (
            r#"{{printf "%-8s|%4d|%q" .Config.User .Size "x"}}"#,
            "nobody  |4210|\"x\"",
        ),
        ("{{title .Config.User}}", "Nobody"),
        ("{{.Config.Labels.team}}", "x"),
        ("{{.Config.Labels.none}}", "<no value>"),
        ("{{.Config.Volumes.none}}", "<no value>"),
        ("{{.Config.OnBuild.none}}", "<no value>"),
    ] {
        assert_eq!(rendered(template), expected, "{template}");
    }
}

#[test]
fn mistakes_are_named() {
    for (template, reason) in [
        (
            "{{.Config.Usr}}",
            "there's no field `.Usr`; did you mean `.User`?",
        ),
        ("{{.id}}", "there's no field `.id`; did you mean `.Id`?"),
        ("{{.Size.X}}", "`.X` of `4210`, which has no fields"),
        ("{{.Parent.X}}", "`.X` of nothing"),
        ("{{.Id", "`{{` has no `}}`"),
        ("{{if .Id}}x", "`{{end}}` is missing"),
        ("{{end}}", "`{{end}}` ends nothing"),
        ("{{else}}", "`{{else}}` belongs to nothing"),
        ("{{}}", "a value is missing"),
        ("{{.Id | }}", "a value is missing"),
        ("{{(.Id}}", "`(` has no `)`"),
        ("{{nothing .Id}}", "there's no function `nothing`"),
        (
            "{{index .RepoTags 2}}",
            "index 2 is out of range, there are 2",
        ),
        ("{{join .Id}}", "`join` takes other arguments"),
        ("{{template \"x\"}}", "`template` is not supported"),
        ("{{$x}}", "there's no variable `$x`"),
        ("{{range .Size}}{{end}}", "can't range over `4210`"),
        ("{{.Id .Size}}", "only functions take arguments"),
    ] {
        assert_eq!(refused(template), reason, "{template}");
    }
}

#[test]
fn a_format_is_json_a_table_or_a_template_for_each_row() {
    let rows = [
        json!({"ID": "1", "Name": "long name"}),
        json!({"ID": "22", "Name": "b"}),
    ];
    let headings = json!({"ID": "IMAGE ID", "Name": "NAME"});
    let shown = |format: &str| {
        format
            .parse::<Format>()
            .unwrap()
            .rows(&rows, &headings)
            .unwrap()
    };
    let json = "{\"ID\":\"1\",\"Name\":\"long name\"}\n{\"ID\":\"22\",\"Name\":\"b\"}\n";
    assert_eq!(shown("json"), json);
    assert_eq!(shown("{{json .}}"), json);
    assert_eq!(shown("{{.ID}}"), "1\n22\n");
    assert_eq!(shown(r"{{.ID}}\t{{.Name}}"), "1\tlong name\n22\tb\n");
    assert_eq!(
        shown(r#"{{.ID}}{{"\t"}}{{.Name}}\n"#),
        "1\tlong name\n\n22\tb\n\n"
    );
    assert_eq!(
        shown(r"table {{.Name}}\t{{.ID}}"),
        "NAME        IMAGE ID\nlong name   1\nb           22\n"
    );
}

proptest! {
    #[test]
    fn nothing_panics(text in r#"(\{\{|\}\}|[-. $|()"`a-zA-Z0-9:=,]|range|if|end|else|with|index|slice|printf|%[-0-9sdq]*){0,30}"#) {
        if let Ok(template) = text.parse::<Template>() {
            let _ = template.render(&image());
        }
    }

    #[test]
    fn text_without_braces_is_itself(text in "[^{}]{0,40}") {
        prop_assert_eq!(text.parse::<Template>().unwrap().render(&image()).unwrap(), text);
    }
}
