use std::collections::BTreeMap;

use super::*;

fn read(text: &str) -> Result<OutputValue, Failure> {
    read_with(text, &[], false)
}

fn read_with(
    text: &str,
    annotations: &[&str],
    stdout_is_terminal: bool,
) -> Result<OutputValue, Failure> {
    let platforms = [Platform::new("linux", "amd64", None)];
    let annotations: Vec<String> = annotations.iter().map(|&text| text.to_owned()).collect();
    let around = Around {
        stdout_is_terminal,
        platforms: &platforms,
        annotations: &Annotations::of_flags(&annotations, &platforms).unwrap(),
    };
    output(text, &around)
}

fn archive(format: ArchiveFormat, dest: &str) -> Kind {
    Kind::Written(OutputTarget::Archive {
        format,
        dest: dest.into(),
    })
}

#[test]
fn every_type_says_where_to() {
    let oci = |dest| archive(ArchiveFormat::Oci, dest);
    let tar = |dest: &str| Kind::Written(OutputTarget::Tar { dest: dest.into() });
    let folder = |dest: &str| Kind::Written(OutputTarget::Folder { dest: dest.into() });
    let image = |push, by_digest| Kind::Image { push, by_digest };
    for (text, expected) in [
        ("type=oci,dest=a.tar", oci("a.tar")),
        ("dest=a.tar,type=oci", oci("a.tar")),
        ("TYPE=oci,Dest=a.tar,TAR=true", oci("a.tar")),
        ("type=oci", oci("-")),
        ("type=oci,dest=-", oci("-")),
        ("type=oci,\"dest=a,b.tar\"", oci("a,b.tar")),
        (
            "type=oci,dest=dir,tar=false",
            Kind::Written(OutputTarget::Layout { dest: "dir".into() }),
        ),
        (
            "type=docker,dest=a.tar",
            archive(ArchiveFormat::Docker, "a.tar"),
        ),
        ("type=docker,dest=-", archive(ArchiveFormat::Docker, "-")),
        ("type=docker", Kind::Engine),
        ("type=cacheonly", Kind::Nothing),
        ("type=tar,dest=a.tar", tar("a.tar")),
        ("type=tar", tar("-")),
        ("-", tar("-")),
        ("type=local,dest=out", folder("out")),
        (
            "type=local,dest=out,platform-split=false,mode=copy",
            folder("out"),
        ),
        ("out", folder("out")),
        ("../some folder", folder("../some folder")),
        ("type=image", image(false, false)),
        ("type=image,push=true", image(true, false)),
        ("type=image,push=", image(true, false)),
        ("type=registry", image(true, false)),
        ("type=registry,push-by-digest=true", image(true, true)),
        (
            "type=image,store=true,unpack=false,name-canonical=false,oci-artifact=false",
            image(false, false),
        ),
    ] {
        assert_eq!(
            read(text).unwrap_or_else(|f| panic!("{text}: {f:?}")).kind,
            expected,
            "{text}"
        );
    }
}

#[test]
fn an_image_is_packed_as_it_is_asked_for() {
    let value = read(
        "type=oci,dest=a,compression=zstd,compression-level=19,force-compression=true,\
         annotation.org.example.Key=1,annotation-manifest-descriptor.d=2,rewrite-timestamp=true,\
         \"name=app,example.org/app:2\"",
    )
    .unwrap();
    let map = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    assert_eq!(
        value.packaging,
        Packaging {
            media_types: MediaTypes::Oci,
            compression: Compression::Zstd,
            level: Some(19),
            force_compression: true,
            annotations: map("org.example.Key", "1"),
            descriptor_annotations: map("d", "2"),
            ..Packaging::default()
        }
    );
    assert_eq!(value.rewrite_timestamp, Some(true));
    let names: Vec<String> = value.names.iter().map(Reference::to_string).collect();
    assert_eq!(names, ["docker.io/library/app:latest", "example.org/app:2"]);
    let packaging = |text: &str| read_with(text, &["a=flag"], false).unwrap().packaging;
    assert_eq!(packaging("type=image").annotations, map("a", "flag"));
    assert_eq!(
        packaging("type=image,annotation.a=own").annotations,
        map("a", "own")
    );
    assert_eq!(packaging("type=local,dest=a"), Packaging::default());
    assert_eq!(
        packaging("type=oci,compression=gzip,oci-mediatypes=true,force-compression=false"),
        packaging("type=oci"),
    );
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    for (text, message) in [
        ("type=oci,dest", "`--output`: `dest` is not key=value"),
        ("dest=a.tar", "`--output dest=a.tar` has no type"),
        ("type=bundle", "`--output`: there is no type `bundle`"),
        (
            "type=oci,tar=false",
            "`--output type=oci,tar=false` needs a folder",
        ),
        ("type=local", "`--output type=local` needs a folder"),
        ("type=local,dest=-", "`--output type=local` needs a folder"),
        (
            "type=oci,tar=maybe",
            "`--output`: `tar` is true or false, not `maybe`",
        ),
        (
            "type=oci,\"dest=a",
            "`--output` is no list of key=value: a quote is not closed",
        ),
        (
            "type=image,dest=a",
            "rbuild does not support `dest=a` in `--output type=image`",
        ),
        (
            "type=image,store=false",
            "rbuild does not support `store=false` in `--output type=image`",
        ),
        (
            "type=image,unpack=true",
            "rbuild does not support `unpack=true` in `--output type=image`",
        ),
        (
            "type=image,dangling-name-prefix=x",
            "rbuild does not support `dangling-name-prefix=x` in `--output type=image`",
        ),
        (
            "type=image,name-canonical=true",
            "rbuild does not support `name-canonical=true` in `--output type=image`",
        ),
        (
            "type=docker,tar=false",
            "rbuild does not support `tar=false` in `--output type=docker`",
        ),
        (
            "type=local,dest=a,name=b",
            "rbuild does not support `name=b` in `--output type=local`",
        ),
        (
            "type=local,dest=a,mode=delete",
            "rbuild does not support `mode=delete` in `--output type=local`",
        ),
        (
            "type=tar,compression=gzip",
            "rbuild does not support `compression=gzip` in `--output type=tar`",
        ),
        (
            "type=oci,compression=estargz",
            "rbuild does not support `compression=estargz`",
        ),
        (
            "type=oci,compression-level=10",
            "`compression-level=10` is too high",
        ),
        (
            "type=oci,compression-level=high",
            "`--output`: `compression-level` is a number, not `high`",
        ),
        (
            "type=oci,compression=uncompressed,compression-level=1",
            "`compression-level` means nothing with `compression=uncompressed`",
        ),
        (
            "type=oci,oci-mediatypes=false,compression=zstd",
            "`oci-mediatypes=false` and `compression=zstd` contradict each other",
        ),
        (
            "type=oci,oci-mediatypes=false,annotation.a=b",
            "`oci-mediatypes=false` and annotations contradict each other",
        ),
        (
            "type=oci,annotation-index.a=b",
            "the annotation `a` is for an index, which an image for one platform has not",
        ),
        (
            "type=image,push-by-digest=true",
            "`push-by-digest=true` needs `push=true`",
        ),
    ] {
        assert_eq!(read(text).unwrap_err().message(), message, "{text}");
    }
}

#[test]
fn an_archive_is_not_written_to_a_terminal() {
    for text in ["type=oci", "type=tar", "-", "type=docker,dest=-"] {
        assert_eq!(
            read_with(text, &[], true).unwrap_err().message(),
            "an archive is not written to a terminal",
            "{text}"
        );
    }
    assert!(read_with("type=local,dest=a", &[], true).is_ok());
}
