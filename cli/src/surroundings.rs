//! What stands around a configuration? The plug-in, its VM, the filters beside it, the routes.

use crate::check::{Finding, Found, is_configuration};
use crate::held::Held;
use crate::locate::{Kind, Node};
use crate::shown::Shown;
use crate::sign_in;
use crate::trust;

/// Where a plug-in is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    /// `vm_config` and `configuration` of Envoy's own configuration.
    Envoy,
    /// `pluginConfig` of Istio's `WasmPlugin` or `TrafficExtension`.
    Istio,
    /// `config` of Envoy Gateway's `EnvoyExtensionPolicy`.
    Gateway,
}

/// A plug-in of any kind, medbind's or not.
struct Plugin<'a> {
    host: Host,
    node: &'a Node,
    field: String,
    ours: bool,
}

impl<'a> Plugin<'a> {
    /// The plug-in that this map is, if it is one.
    fn of(node: &'a Node, field: &str) -> Option<Self> {
        let host = if node.get("vm_config").is_some() {
            Host::Envoy
        } else if node.get("pluginConfig").is_some() {
            Host::Istio
        } else if node.get("config").is_some() && node.at(&["code", "type"]).is_some() {
            Host::Gateway
        } else {
            return None;
        };
        let mut plugin = Self {
            host,
            node,
            field: field.to_owned(),
            ours: false,
        };
        plugin.ours = plugin.is_ours();
        Some(plugin)
    }

    fn configuration(&self) -> Option<(&'a Node, String)> {
        let name = match self.host {
            Host::Envoy => "configuration",
            Host::Istio => "pluginConfig",
            Host::Gateway => "config",
        };
        let node = self.node.get(name)?;
        let field = join(&self.field, name);
        // google.protobuf.Struct and StringValue hold it as `value`.
        match node.get("value") {
            Some(value) if node.get("@type").is_some() => Some((value, join(&field, "value"))),
            Some(_) | None => Some((node, field)),
        }
    }

    /// Whether it is medbind's: by its configuration, or by the names that it goes by.
    fn is_ours(&self) -> bool {
        if let Some((node, _)) = self.configuration() {
            let inside = node.text().and_then(|text| Node::parse(text).ok());
            let inside = inside.iter().flatten().any(is_configuration);
            if inside || is_configuration(node) {
                return true;
            }
        }
        let names = [
            self.node.at(&["vm_config", "code", "local", "filename"]),
            self.node.get("name"),
            self.node.get("root_id"),
            self.node.get("url"),
            self.node.at(&["code", "image", "url"]),
            self.node.at(&["code", "http", "url"]),
        ];
        let mut names = names.into_iter().flatten().filter_map(Node::text);
        names.any(|name| name.contains("medbind"))
    }

    fn vm_id(&self) -> &'a str {
        let id = self.node.at(&["vm_config", "vm_id"]);
        id.and_then(Node::text).unwrap_or_default()
    }
}

fn join(field: &str, name: &str) -> String {
    if field.is_empty() {
        name.to_owned()
    } else {
        format!("{field}.{name}")
    }
}

/// Calls `visit` for each node with its field path, from the top. Where it answers `false`, what
/// lies below is passed over.
fn walk<'a>(node: &'a Node, field: &str, visit: &mut dyn FnMut(&'a Node, &str) -> bool) {
    if !visit(node, field) {
        return;
    }
    for (name, inner) in node.fields() {
        walk(inner, &join(field, name), visit);
    }
    for (index, inner) in node.items().iter().enumerate() {
        walk(inner, &format!("{field}[{index}]"), visit);
    }
}

fn plugins(document: &Node) -> Vec<Plugin<'_>> {
    let mut plugins = Vec::new();
    walk(document, "", &mut |node, field| {
        plugins.extend(Plugin::of(node, field));
        true
    });
    plugins
}

/// Finds the configurations of one document, also those inside texts that hold YAML or JSON.
pub fn find(document: &Node, file: &str, found: &mut Vec<Found>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if is_alone(document) {
        found.push(Found {
            node: document.clone(),
            field: String::new(),
        });
        return findings;
    }
    let ours: Vec<Plugin<'_>> = plugins(document)
        .into_iter()
        .filter(|one| one.ours)
        .collect();
    for plugin in &ours {
        match plugin.configuration() {
            Some((node, field)) => match node.text() {
                Some(text) => embedded(node, text, &field, file, found, &mut findings, true),
                None => found.push(Found {
                    node: node.clone(),
                    field,
                }),
            },
            None => findings.push(Finding::error(
                plugin.node,
                &plugin.field,
                "the plug-in has no configuration",
                "add `configuration` with a google.protobuf.Struct",
            )),
        }
    }
    if document.text_of("kind") == Some("ConfigMap") {
        for part in ["data", "binaryData"] {
            for (name, node) in document.get(part).into_iter().flat_map(Node::fields) {
                if let Some(text) = node.text() {
                    let field = format!("{part}[{name:?}]");
                    embedded(node, text, &field, file, found, &mut findings, false);
                }
            }
        }
    }
    findings
}

/// A document that is a configuration itself, or is meant to be one.
fn is_alone(document: &Node) -> bool {
    is_configuration(document)
        || ["issuers", "rules"]
            .iter()
            .any(|name| document.get(name).is_some())
        || document.get("role").is_some()
}

/// Text inside the file that holds YAML or JSON of its own.
fn embedded(
    node: &Node,
    text: &str,
    field: &str,
    file: &str,
    found: &mut Vec<Found>,
    findings: &mut Vec<Finding>,
    must_parse: bool,
) {
    // A block (`|`) begins on the line after its mark, a quoted text on its own line.
    let index = usize::try_from(node.line.saturating_sub(1)).unwrap_or(usize::MAX);
    let first = file.lines().nth(index).unwrap_or_default();
    let mark = first.trim_end().trim_end_matches(['-', '+']);
    let before = if mark.ends_with(['|', '>']) {
        node.line
    } else {
        node.line.saturating_sub(1)
    };
    let documents = match Node::parse_from(text, before) {
        Ok(documents) => documents,
        Err(error) if must_parse => {
            findings.push(Finding {
                line: error.line,
                ..Finding::error(
                    node,
                    field,
                    &format!("neither YAML nor JSON: {}", error.what),
                    "mend the syntax",
                )
            });
            return;
        }
        Err(_) => return,
    };
    for inner in documents {
        if must_parse || is_alone(&inner) {
            found.push(Found {
                node: inner,
                field: field.to_owned(),
            });
        } else {
            let start = found.len();
            findings.extend(find(&inner, file, found));
            findings.extend(examine(&inner, found.get(start..).unwrap_or_default()));
            for one in found.iter_mut().skip(start) {
                one.field = format!("{field}: {}", one.field);
            }
        }
    }
}

/// Looks at what stands around the configurations of one document.
pub fn examine(document: &Node, found: &[Found]) -> Vec<Finding> {
    let plugins = plugins(document);
    let mut findings = Vec::new();
    if !plugins.iter().any(|plugin| plugin.ours) {
        return findings;
    }
    for plugin in plugins.iter().filter(|plugin| plugin.ours) {
        findings.extend(failing(plugin));
        findings.extend(own_vm(plugin, &plugins));
    }
    findings.extend(one_cache(&plugins));
    findings.extend(fed(document, found));
    let issuers = issuers(found);
    let mut shown = Shown::default();
    walk(document, "", &mut |node, field| {
        if node.get("http_filters").is_some() {
            findings.extend(filters(node, field));
            findings.extend(routes(node, field));
        }
        findings.extend(early_data(node, field));
        findings.extend(trust::examine(node, field, &issuers));
        findings.extend(shown.examine(node, field));
        findings.extend(sign_in::examine(node, field));
        true
    });
    findings
}

/// The CAs that the guards take, as far as they can be read.
fn issuers(found: &[Found]) -> Vec<Held> {
    let issuers = found.iter().filter_map(|one| one.node.get("issuers"));
    let certificates = issuers
        .flat_map(Node::items)
        .filter_map(|issuer| issuer.get("certificates"))
        .flat_map(Node::items);
    certificates
        .filter_map(Node::text)
        .flat_map(Held::readable)
        .collect()
}

/// What happens to traffic when the module fails.
fn failing(plugin: &Plugin<'_>) -> Option<Finding> {
    const RELOAD: &str = "set it to FAIL_RELOAD: a new VM answers the next request";
    let (name, old_name) = match plugin.host {
        Host::Envoy => ("failure_policy", "fail_open"),
        Host::Istio => ("failStrategy", "failOpen"),
        Host::Gateway => ("", "failOpen"),
    };
    let policy = plugin.node.get(name);
    let word = policy.and_then(Node::text).unwrap_or_default();
    let old = plugin.node.get(old_name).filter(|node| node.is_true());
    if word.strip_prefix("FAIL_") == Some("OPEN") || old.is_some() {
        let name = if old.is_some() { old_name } else { name };
        return Some(Finding::error(
            old.or(policy).unwrap_or(plugin.node),
            &join(&plugin.field, name),
            "after a failure of the module every request goes past the guard",
            match plugin.host {
                Host::Envoy | Host::Istio => RELOAD,
                Host::Gateway => "leave it out",
            },
        ));
    }
    if plugin.host == Host::Gateway || word == "FAIL_RELOAD" {
        return None;
    }
    Some(Finding::warning(
        policy.unwrap_or(plugin.node),
        &join(&plugin.field, name),
        "after a failure of the module every request is answered with 503 until Envoy is started \
         again",
        RELOAD,
    ))
}

/// The cache belongs to whoever shares the VM's name.
fn own_vm(plugin: &Plugin<'_>, all: &[Plugin<'_>]) -> Option<Finding> {
    if plugin.host != Host::Envoy {
        return None;
    }
    let vm_id = plugin.vm_id();
    let field = join(&plugin.field, "vm_config.vm_id");
    let node = plugin.node.at(&["vm_config", "vm_id"]);
    let node = node.unwrap_or(plugin.node);
    if vm_id.is_empty() {
        return Some(Finding::warning(
            node,
            &field,
            "without a vm_id the cache is shared with every plug-in that names none either",
            "give medbind's plug-ins a vm_id of their own, such as `medbind`",
        ));
    }
    let mut strangers = all
        .iter()
        .filter(|one| !one.ours && one.host == Host::Envoy);
    let stranger = strangers.find(|one| one.vm_id() == vm_id)?;
    Some(Finding::warning(
        node,
        &field,
        &format!(
            "the vm_id {vm_id:?} is shared with another plug-in (line {}), which can read and \
             write the cache",
            stranger.node.line
        ),
        "give medbind's plug-ins a vm_id of their own, such as `medbind`",
    ))
}

/// Guard and synchroniser meet in the data of one VM.
fn one_cache(plugins: &[Plugin<'_>]) -> Option<Finding> {
    let mut ours = plugins
        .iter()
        .filter(|one| one.ours && one.host == Host::Envoy);
    let first = ours.next()?;
    let other = ours.find(|one| one.vm_id() != first.vm_id())?;
    Some(Finding::warning(
        other.node.at(&["vm_config", "vm_id"]).unwrap_or(other.node),
        &join(&other.field, "vm_config.vm_id"),
        &format!(
            "medbind's plug-ins have different vm_ids ({:?} and {:?}): each has a cache of its own",
            first.vm_id(),
            other.vm_id()
        ),
        "give all of them the same vm_id, so that the guard reads what the synchroniser writes",
    ))
}

/// Somebody must fill the cache, and somebody else where that one is gone.
fn fed(document: &Node, found: &[Found]) -> Option<Finding> {
    document.get("static_resources")?;
    let mut guards = found.iter().filter(|one| one.role() != "sync");
    let is_alone = |guard: &&Found| guard.node.get("registry").is_none();
    if !found.iter().any(|one| one.role() == "sync") {
        let guard = guards.find(is_alone)?;
        return Some(Finding::warning(
            &guard.node,
            &guard.field,
            "there is no synchroniser in this bootstrap, and the guard names no registry: it \
             refuses everything with 503",
            "add the synchroniser to bootstrap_extensions, and `registry:` to the guard",
        ));
    }
    let guards: Vec<&Found> = guards.collect();
    if !guards.iter().all(is_alone) {
        return None;
    }
    let guard = guards.first()?;
    Some(Finding::warning(
        &guard.node,
        &guard.field,
        "no guard names a registry: a synchroniser that traps stays down, since Envoy makes it no \
         new VM, and after max_stale everything is refused with 503",
        "give the guard the synchroniser's `registry:`, and one of its workers takes over",
    ))
}

/// Filters that may change the path or the tag, by the end of their type.
const CHANGERS: [&str; 8] = [
    ".lua.v3.Lua",
    ".ext_proc.v3.ExternalProcessor",
    ".ext_authz.v3.ExtAuthz",
    ".header_mutation.v3.HeaderMutation",
    ".golang.v3alpha.Config",
    ".dynamic_modules.v3.DynamicModuleFilter",
    ".grpc_http1_reverse_bridge.v3.FilterConfig",
    ".grpc_json_transcoder.v3.GrpcJsonTranscoder",
];

/// The order of filters around the guard.
fn filters(manager: &Node, field: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let list = manager.get("http_filters");
    let list = list.map(Node::items).unwrap_or_default();
    let ours = |filter: &Node| plugins(filter).iter().any(|plugin| plugin.ours);
    let Some(guard) = list.iter().position(ours) else {
        return findings;
    };
    for (index, filter) in list.iter().enumerate() {
        let field = join(field, &format!("http_filters[{index}]"));
        let name = filter.text_of("name").unwrap_or("?");
        let kind = filter.at(&["typed_config", "@type"]).and_then(Node::text);
        let kind = kind.unwrap_or_default();
        if index == guard {
            if filter.get("disabled").is_some_and(Node::is_true) {
                findings.push(Finding::error(
                    filter,
                    &join(&field, "disabled"),
                    "the guard is switched off: every request goes past it",
                    "take `disabled` out",
                ));
            }
            continue;
        }
        if index < guard {
            continue;
        }
        if kind.ends_with(".jwt_authn.v3.JwtAuthentication") {
            findings.push(Finding::warning(
                filter,
                &field,
                &format!("{name} comes after the guard: no token is verified when it decides"),
                "move it before the guard",
            ));
        } else if kind.ends_with(".cors.v3.Cors") {
            findings.push(Finding::warning(
                filter,
                &field,
                &format!("{name} comes after the guard: preflight requests are refused"),
                "move it before the guard",
            ));
        } else if CHANGERS.iter().any(|end| kind.ends_with(end)) || !plugins(filter).is_empty() {
            if ours(filter) {
                continue;
            }
            findings.push(Finding::warning(
                filter,
                &field,
                &format!("{name} comes after the guard, and may change path or tag"),
                "move it before the guard, or make sure that it changes neither",
            ));
        }
    }
    findings
}

/// Routes that change what was decided on.
fn routes(manager: &Node, field: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(config) = manager.get("route_config") else {
        return findings;
    };
    let list = manager.get("http_filters").map(Node::items);
    let guards: Vec<&str> = list
        .unwrap_or_default()
        .iter()
        .filter(|filter| plugins(filter).iter().any(|plugin| plugin.ours))
        .filter_map(|filter| filter.text_of("name"))
        .collect();
    if guards.is_empty() {
        return findings;
    }
    walk(config, &join(field, "route_config"), &mut |node, field| {
        for name in [
            "prefix_rewrite",
            "regex_rewrite",
            "path_rewrite_policy",
            "path_rewrite",
        ] {
            if let Some(rewrite) = node.get(name) {
                findings.push(Finding::warning(
                    rewrite,
                    &join(field, name),
                    "the upstream gets another path than the guard decided on",
                    "make sure that the rules say what the upstream serves, or rewrite nothing",
                ));
            }
        }
        for (name, inner) in node
            .get("typed_per_filter_config")
            .into_iter()
            .flat_map(Node::fields)
        {
            // What Envoy answers by itself reaches nobody.
            let answered = node.get("direct_response").is_some();
            let disabled = inner.get("disabled").is_some_and(Node::is_true);
            if guards.contains(&name) && disabled && !answered {
                findings.push(Finding::error(
                    inner,
                    &join(field, &format!("typed_per_filter_config[{name:?}]")),
                    "the guard is switched off on this route",
                    "take it out; a rule with `principals: [anyone]` lets a path through",
                ));
            }
        }
        for name in ["request_headers_to_add", "request_headers_to_remove"] {
            for item in node.get(name).map(Node::items).unwrap_or_default() {
                let header = item.at(&["header", "key"]).unwrap_or(item);
                let header = header.text().unwrap_or_default();
                if header.to_ascii_lowercase().starts_with("x-medbind-") {
                    findings.push(Finding::warning(
                        item,
                        &join(field, name),
                        &format!("{header} is changed after the guard has set it"),
                        "leave the tag to the guard",
                    ));
                }
            }
        }
        true
    });
    findings
}

/// Requests in TLS early data can be replayed (RFC 8446, 8).
fn early_data(node: &Node, field: &str) -> Option<Finding> {
    const MEND: &str = "set enable_early_data to false";
    let kind = node.text_of("@type").unwrap_or_default();
    if kind.ends_with(".quic.v3.QuicDownstreamTransport") {
        let refused = node.get("enable_early_data");
        let refused = refused.is_some_and(|node| node.kind == Kind::Bool(false));
        if !refused {
            let what = "requests in early data can be replayed, and QUIC takes them";
            return Some(Finding::warning(node, field, what, MEND));
        }
    }
    let policy = node.get("early_data_policy")?;
    let what = "requests in early data can be replayed";
    let field = join(field, "early_data_policy");
    Some(Finding::warning(
        policy,
        &field,
        what,
        "take early_data_policy out",
    ))
}
