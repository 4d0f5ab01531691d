//! The finished module: what it asks of its host, what it offers, how large it is.
//!
//! `cargo xtask test` builds the module and runs this; by hand: `cargo xtask module`, then
//! `MEDBIND_MODULE=dist/medbind.wasm cargo test --test module_shape`.

use wasmparser::{ExternalKind, Parser, Payload};

/// 700 KiB.
const MOST_OCTETS: usize = 700 * 1024;

/// Every host function that the module uses. What is not here has no business in it: the
/// configurations that are deployed name these and no others.
const IMPORTS: [&str; 24] = [
    "proxy_add_header_map_value",
    "proxy_call_foreign_function",
    "proxy_close_stream",
    "proxy_continue_stream",
    "proxy_define_metric",
    "proxy_get_buffer_bytes",
    "proxy_get_current_time_nanoseconds",
    "proxy_get_header_map_pairs",
    "proxy_get_header_map_value",
    "proxy_get_property",
    "proxy_get_shared_data",
    "proxy_http_call",
    "proxy_increment_metric",
    "proxy_log",
    "proxy_record_metric",
    "proxy_remove_header_map_value",
    "proxy_replace_header_map_value",
    "proxy_send_local_response",
    "proxy_set_effective_context",
    "proxy_set_property",
    "proxy_set_shared_data",
    "proxy_set_tick_period_milliseconds",
    // The SDK's, for callbacks that medbind does not use.
    "proxy_done",
    "proxy_get_status",
];

/// What the guard and the synchroniser act upon.
const EXPORTS: [&str; 12] = [
    "_initialize",
    "malloc",
    "memory",
    "proxy_abi_version_0_2_1",
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_delete",
    "proxy_on_http_call_response",
    "proxy_on_request_headers",
    "proxy_on_request_trailers",
    "proxy_on_tick",
    "proxy_on_vm_start",
];

struct Shape {
    octets: usize,
    imports: Vec<(String, String)>,
    exports: Vec<String>,
    bytes: Vec<u8>,
}

fn shape() -> Shape {
    let Some(path) = std::env::var_os("MEDBIND_MODULE") else {
        panic!(
            "MEDBIND_MODULE does not say where the module is: run `cargo xtask module`, then set \
             MEDBIND_MODULE to its dist/medbind.wasm"
        );
    };
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut imports = Vec::new();
    let mut exports = Vec::new();
    for payload in Parser::new(0).parse_all(&bytes) {
        match payload.unwrap() {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.unwrap();
                    imports.push((import.module.to_owned(), import.name.to_owned()));
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.unwrap();
                    if matches!(export.kind, ExternalKind::Func | ExternalKind::Memory) {
                        exports.push(export.name.to_owned());
                    }
                }
            }
            _ => {}
        }
    }
    Shape {
        octets: bytes.len(),
        imports,
        exports,
        bytes,
    }
}

#[test]
fn it_asks_its_host_for_nothing_but_what_the_guard_uses() {
    for (module, name) in shape().imports {
        assert_eq!(module, "env", "{name}");
        assert!(IMPORTS.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn it_offers_what_the_roles_act_upon() {
    let exports = shape().exports;
    for name in EXPORTS {
        assert!(exports.iter().any(|export| export == name), "{name}");
    }
}

#[test]
fn it_is_small() {
    let octets = shape().octets;
    assert!(octets <= MOST_OCTETS, "{octets} octets");
}

#[test]
fn it_cannot_be_told_to_trap() {
    let bytes = shape().bytes;
    let header = b"x-medbind-trap";
    let found = bytes.windows(header.len()).any(|window| window == header);
    assert!(
        !found,
        "built with the feature `trap`, which is for tests alone"
    );
}
