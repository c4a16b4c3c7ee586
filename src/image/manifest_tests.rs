use super::*;

fn blob(text: &str) -> Descriptor {
    Descriptor::of(media_type::OCI_LAYER_GZIP, text.as_bytes())
}

fn sample() -> Manifest {
    Manifest::new(
        Descriptor::of(media_type::OCI_CONFIG, b"{}"),
        vec![
            blob("a")
                .with_annotation("z", "1")
                .with_annotation("a", "2"),
        ],
        BTreeMap::new(),
    )
}

fn image_for(platform: &str) -> Descriptor {
    Descriptor::of(media_type::OCI_MANIFEST, platform.as_bytes())
        .with_platform(&platform.parse().unwrap())
}

fn parse(media_type: Option<&str>, json: &str) -> Result<ParsedManifest, ImageError> {
    ParsedManifest::from_bytes(media_type, json.as_bytes().to_vec())
}

#[test]
fn a_manifest_is_written_in_one_form() {
    let expected = r#"{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.manifest.v1+json",
  "config": {
    "mediaType": "application/vnd.oci.image.config.v1+json",
    "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    "size": 2
  },
  "layers": [
    {
      "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
      "digest": "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
      "size": 1,
      "annotations": {
        "a": "2",
        "z": "1"
      }
    }
  ]
}"#;
    let bytes = sample().to_bytes();
    assert_eq!(String::from_utf8(bytes.clone()).unwrap(), expected);
    let parsed = ParsedManifest::from_bytes(None, bytes.clone()).unwrap();
    assert_eq!(parsed.document, Document::Manifest(Box::new(sample())));
    assert_eq!(parsed.digest(), BlobDigest(Digest::of(&bytes)));
    assert_eq!(parsed.descriptor().size, bytes.len() as u64);
}

#[test]
fn an_index_reads_as_it_was_written() {
    let index = ImageIndex::new(vec![image_for("linux/arm/v7"), image_for("linux/amd64")]);
    let parsed = ParsedManifest::from_bytes(None, index.to_bytes()).unwrap();
    assert!(parsed.is_index());
    assert_eq!(parsed.document, Document::Index(index.clone()));
    assert_eq!(ImageIndex::from_bytes(&index.to_bytes()).unwrap(), index);
}

#[test]
fn the_best_platform_is_chosen() {
    let attestation = Descriptor::of(media_type::OCI_MANIFEST, b"attestation")
        .with_platform(&Platform::new("unknown", "unknown", None))
        .with_annotation(ATTESTATION_ANNOTATION, "attestation-manifest");
    let unnamed = Descriptor::of(media_type::OCI_MANIFEST, b"unnamed");
    let index = ImageIndex::new(vec![
        attestation,
        unnamed.clone(),
        image_for("linux/arm/v6"),
        image_for("linux/arm/v7"),
        image_for("linux/amd64"),
    ]);
    let candidates = |platform: &str| -> Vec<BlobDigest> {
        let candidates = index.candidates(&platform.parse().unwrap());
        candidates.into_iter().map(|d| d.digest).collect()
    };
    assert_eq!(
        candidates("linux/arm/v7"),
        [
            image_for("linux/arm/v7").digest,
            image_for("linux/arm/v6").digest,
            unnamed.digest
        ]
    );
    assert_eq!(candidates("linux/s390x"), [unnamed.digest]);
}

#[test]
fn a_missing_platform_is_said_with_what_there_is() {
    let index = ImageIndex::new(vec![image_for("linux/arm/v7"), image_for("linux/amd64")]);
    let error = index.select(&"linux/s390x".parse().unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no image for linux/s390x in the index: it has linux/arm/v7, linux/amd64"
    );
}

#[test]
fn formats_are_told_apart() {
    let manifest = String::from_utf8(sample().to_bytes()).unwrap();
    let bare = manifest.replace(
        "  \"mediaType\": \"application/vnd.oci.image.manifest.v1+json\",\n",
        "",
    );
    let docker = manifest.replace(media_type::OCI_MANIFEST, media_type::DOCKER_MANIFEST);
    for (given, json, expected) in [
        (None, &manifest, media_type::OCI_MANIFEST),
        (None, &bare, media_type::OCI_MANIFEST),
        (None, &docker, media_type::DOCKER_MANIFEST),
        (
            Some("application/json"),
            &docker,
            media_type::DOCKER_MANIFEST,
        ),
        (
            Some("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"),
            &bare,
            media_type::DOCKER_MANIFEST,
        ),
    ] {
        assert_eq!(parse(given, json).unwrap().media_type(), expected);
    }
    let index = r#"{"schemaVersion":2,"manifests":[]}"#;
    assert_eq!(
        parse(None, index).unwrap().media_type(),
        media_type::OCI_INDEX
    );
}

#[test]
fn what_is_not_an_image_is_refused_with_the_reason() {
    let config = sample().config.to_object().into_value();
    for (given, json, expected) in [
        (
            None,
            r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(),
            "retired schema 1",
        ),
        (
            None,
            format!(r#"{{"config":{config},"manifests":[]}}"#),
            "ambiguous",
        ),
        (
            None,
            r#"{"mediaType":"text/plain","layers":[]}"#.to_owned(),
            "`text/plain` is not",
        ),
        (
            Some(media_type::OCI_INDEX),
            format!(r#"{{"config":{config},"layers":[]}}"#),
            "expected an image index",
        ),
        (
            Some(media_type::OCI_MANIFEST),
            r#"{"manifests":[]}"#.to_owned(),
            "expected a manifest",
        ),
        (
            Some(media_type::OCI_MANIFEST),
            format!(r#"{{"mediaType":"{}"}}"#, media_type::OCI_INDEX),
            "but was given as",
        ),
        (None, "{}".to_owned(), "invalid manifest"),
        (None, "<html>".to_owned(), "invalid manifest"),
    ] {
        let error = parse(given, &json).unwrap_err().to_string();
        assert!(error.contains(expected), "{json}: {error}");
    }
    let padding = " ".repeat(MANIFEST_LIMIT as usize);
    let large = parse(None, &format!("{{{padding}}}")).unwrap_err();
    assert!(matches!(large, ImageError::TooLarge { .. }));
}

#[test]
fn exchanged_bytes_are_noticed() {
    let bytes = sample().to_bytes();
    let digest = BlobDigest(Digest::of(&bytes));
    assert!(ParsedManifest::verified(None, bytes.clone(), digest).is_ok());
    let other = BlobDigest(Digest::of(b"other"));
    let error = ParsedManifest::verified(None, bytes, other).unwrap_err();
    assert!(matches!(error, ImageError::WrongDigest { .. }));
}
