//! The settings file as a JSON Schema, for editors: `lockkeeper check --schema`.
//!
//! What the types and defaults are, [`Settings`] says; what a key means, [`DOCS`]. The schema takes
//! the spelling that `check` prints: `SIGTERM`, where the program also takes `term` and `"15"`.
//! What no single value can tell (an exit code in two lists) is left to `lockkeeper check`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Value, json};

use super::{
    handler::HandlerBy,
    probe::{Field, Via},
    profile::ProfileName,
    settings::{DOCS, LogFormat, Settings},
};
use crate::protocol::signal::Signal;

/// The schema, draft 2020-12.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Settings>().to_value();
    schema["title"] = json!("lockkeeper.toml");
    schema["description"] = json!("The settings of `lockkeeper run --config FILE`.");
    // A default of a whole table would say each of its keys' again.
    for table in schema["properties"].as_object_mut().into_iter().flat_map(|all| all.values_mut()) {
        if let Some(table) = table.as_object_mut().filter(|table| table.contains_key("properties"))
        {
            table.remove("default");
            table.remove("description");
        }
    }
    for (key, meaning) in DOCS {
        let path = format!("/properties/{}", key.replace('.', "/properties/"));
        if let Some(of_key) = schema.pointer_mut(&path) {
            of_key["description"] = json!(meaning);
        }
    }
    schema
}

/// Gives these types a schema by the texts that they are written as.
macro_rules! written_as {
    ($($type:ty, $name:literal => $schema:tt;)+) => {$(
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )+};
}

written_as! {
    Signal, "Signal" => { "type": "string", "enum": signals() };
    HandlerBy, "HandlerBy" => {
        "type": "string",
        "enum": (["auto", "ready"].into_iter().chain(signals()).collect::<Vec<_>>())
    };
    ProfileName, "ProfileName" => {
        "type": "string",
        "enum": (ProfileName::ALL.iter().map(|profile| profile.name()).collect::<Vec<_>>())
    };
    LogFormat, "LogFormat" => {
        "type": "string",
        "enum": ["auto", "human", "json", "journald"]
    };
    Via, "Via" => {
        "type": "string",
        "pattern": r"^(auto|notify|none|tcp://[^/]+:[0-9]+|http://[^/].*)$"
    };
    Field, "Field" => { "type": "string", "pattern": "^([^=]+=.*)?$" };
}

fn signals() -> Vec<&'static str> {
    Signal::ALL.iter().map(|signal| signal.name()).collect()
}

#[cfg(test)]
mod tests;
