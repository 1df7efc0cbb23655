//! Parses schemas from the registry's answers and from local files.

use std::path::{Path, PathBuf};

use prost_reflect::DescriptorPool;
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver};

use super::avro::AvroSchema;
use super::protobuf::ProtoFile;
use super::{Parsed, Schema};

/// The name by which the compiler knows a schema of the registry, which has no file name.
const MAIN: &str = "schema.proto";

/// Files that schemas may import without listing them as references, because Confluent's serializers know them. Kafka Connect
/// writes dates and times of day as messages of `google/type`.
const CONFLUENT: &[(&str, &str)] = &[
    (
        "confluent/meta.proto",
        "syntax = \"proto3\"; package confluent; import \"google/protobuf/descriptor.proto\";
         message Meta { string doc = 1; map<string, string> params = 2; repeated string tags = 3; }
         extend google.protobuf.FileOptions { Meta file_meta = 1088; }
         extend google.protobuf.MessageOptions { Meta message_meta = 1088; }
         extend google.protobuf.FieldOptions { Meta field_meta = 1088; }
         extend google.protobuf.EnumOptions { Meta enum_meta = 1088; }
         extend google.protobuf.EnumValueOptions { Meta enum_value_meta = 1088; }",
    ),
    (
        "confluent/type/decimal.proto",
        "syntax = \"proto3\"; package confluent.type;
         message Decimal { bytes value = 1; uint32 precision = 2; int32 scale = 3; }",
    ),
    (
        "google/type/date.proto",
        "syntax = \"proto3\"; package google.type; message Date { int32 year = 1; int32 month = 2; int32 day = 3; }",
    ),
    (
        "google/type/timeofday.proto",
        "syntax = \"proto3\"; package google.type;
         message TimeOfDay { int32 hours = 1; int32 minutes = 2; int32 seconds = 3; int32 nanos = 4; }",
    ),
    (
        "google/type/datetime.proto",
        "syntax = \"proto3\"; package google.type; import \"google/protobuf/duration.proto\";
         message DateTime { int32 year = 1; int32 month = 2; int32 day = 3; int32 hours = 4; int32 minutes = 5; int32 seconds = 6;
         int32 nanos = 7; oneof time_offset { google.protobuf.Duration utc_offset = 8; TimeZone time_zone = 9; } }
         message TimeZone { string id = 1; string version = 2; }",
    ),
    ("google/type/decimal.proto", "syntax = \"proto3\"; package google.type; message Decimal { string value = 1; }"),
    (
        "google/type/latlng.proto",
        "syntax = \"proto3\"; package google.type; message LatLng { double latitude = 1; double longitude = 2; }",
    ),
    (
        "google/type/money.proto",
        "syntax = \"proto3\"; package google.type;
         message Money { string currency_code = 1; int64 units = 2; int32 nanos = 3; }",
    ),
    (
        "google/type/interval.proto",
        "syntax = \"proto3\"; package google.type; import \"google/protobuf/timestamp.proto\";
         message Interval { google.protobuf.Timestamp start_time = 1; google.protobuf.Timestamp end_time = 2; }",
    ),
    (
        "google/type/dayofweek.proto",
        "syntax = \"proto3\"; package google.type; enum DayOfWeek { DAY_OF_WEEK_UNSPECIFIED = 0; MONDAY = 1; TUESDAY = 2;
         WEDNESDAY = 3; THURSDAY = 4; FRIDAY = 5; SATURDAY = 6; SUNDAY = 7; }",
    ),
    (
        "google/type/month.proto",
        "syntax = \"proto3\"; package google.type; enum Month { MONTH_UNSPECIFIED = 0; JANUARY = 1; FEBRUARY = 2; MARCH = 3;
         APRIL = 4; MAY = 5; JUNE = 6; JULY = 7; AUGUST = 8; SEPTEMBER = 9; OCTOBER = 10; NOVEMBER = 11; DECEMBER = 12; }",
    ),
];

/// Parses a schema from the registry. `kind` is the registry's name of the schema's type; `None` means Avro. `uses` are the names
/// and texts of the schemas to which this schema refers, directly or through others. A schema in `uses` comes after those to
/// which it refers itself. A schema that is neither Avro nor Protobuf isn't parsed.
///
/// # Errors
/// If something is wrong with the schema. The text says what is wrong.
pub fn of_text(kind: Option<&str>, text: &str, uses: &[(String, String)]) -> Result<Schema, String> {
    match kind {
        None | Some("AVRO") => {
            let references: Vec<&str> = uses.iter().map(|(_, schema)| schema.as_str()).collect();
            AvroSchema::parse(text, &references).map(avro)
        }
        Some("PROTOBUF") => {
            let mut files = vec![(MAIN.to_owned(), text.to_owned())];
            files.extend(uses.iter().cloned());
            let pool = compile(MAIN, ChainFileResolver::new(), files)?;
            ProtoFile::new(&pool, MAIN).map(protobuf)
        }
        Some(other) => Ok(Schema(Parsed::Other(other.to_owned()))),
    }
}

/// Reads the `schema_file` of an Avro pipeline.
///
/// # Errors
/// The file's name, and why it can't be read or parsed.
pub fn avro_file(file: &Path) -> Result<Schema, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    AvroSchema::parse(&text, &[]).map(avro).map_err(|why| format!("{}: {why}", file.display()))
}

/// Reads the `schema_file` of a Protobuf pipeline: a descriptor set, or a `.proto` file. Imports are looked up in the directory
/// of the `.proto` file, then in `includes`, then among Google's and Confluent's well-known files.
///
/// # Errors
/// The file's name, and why it can't be read or parsed.
pub fn proto_file(file: &Path, includes: &[PathBuf]) -> Result<Schema, String> {
    let said = |why: String| format!("{}: {why}", file.display());
    if file.extension().is_some_and(|extension| extension == "proto") {
        let mut chain = ChainFileResolver::new();
        let folder = file.parent().map_or_else(PathBuf::new, Path::to_owned);
        chain.add(IncludeFileResolver::new(if folder.as_os_str().is_empty() { ".".into() } else { folder }));
        for include in includes {
            chain.add(IncludeFileResolver::new(include.clone()));
        }
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let pool = compile(&name, chain, Vec::new()).map_err(said)?;
        return ProtoFile::new(&pool, &name).map(protobuf).map_err(said);
    }
    let bytes = std::fs::read(file).map_err(|error| said(error.to_string()))?;
    let pool = DescriptorPool::decode(bytes.as_slice())
        .map_err(|error| said(format!("neither a .proto file nor a descriptor set: {error}")))?;
    // protoc writes the requested file after the files that it imports.
    let name = pool.files().last().map(|file| file.name().to_owned());
    let name = name.ok_or_else(|| said("the descriptor set is empty".to_owned()))?;
    ProtoFile::new(&pool, &name).map(protobuf).map_err(said)
}

fn avro(schema: AvroSchema) -> Schema {
    Schema(Parsed::Avro(schema))
}

fn protobuf(file: ProtoFile) -> Schema {
    Schema(Parsed::Protobuf(file))
}

/// Files that exist only in memory: their names and texts.
struct InMemory(Vec<(String, String)>);

impl FileResolver for InMemory {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match self.0.iter().find(|(known, _)| known == name) {
            Some((_, source)) => File::from_source(name, source),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

fn compile(main: &str, mut chain: ChainFileResolver, files: Vec<(String, String)>) -> Result<DescriptorPool, String> {
    chain.add(InMemory(files));
    chain.add(GoogleFileResolver::new());
    let known = CONFLUENT.iter().map(|(name, source)| ((*name).to_owned(), (*source).to_owned()));
    chain.add(InMemory(known.collect()));
    let mut compiler = Compiler::with_file_resolver(chain);
    compiler.include_imports(true).include_source_info(false);
    compiler.open_file(main).map_err(|error| error.to_string())?;
    Ok(compiler.descriptor_pool())
}
