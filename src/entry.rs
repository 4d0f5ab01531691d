//! How does Envoy call in? The SDK's contexts, each a thin coat over a role's.

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

use crate::guard::Flow;
use crate::host::Envoy;
use crate::root::{Root, Stream};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|id| Box::new(EnvoyRoot(Root::new(Envoy, id))));
}}

struct EnvoyRoot(Root<Envoy>);

impl Context for EnvoyRoot {
    fn on_http_call_response(&mut self, token: u32, headers: usize, body: usize, _trailers: usize) {
        self.0.on_call_answer(token, headers, body);
    }
}

impl RootContext for EnvoyRoot {
    fn on_configure(&mut self, _size: usize) -> bool {
        self.0.on_configure()
    }

    fn on_tick(&mut self) {
        self.0.on_tick();
    }

    fn get_type(&self) -> Option<ContextType> {
        // Whatever the role: a synchroniser in a filter chain refuses, where without a type the SDK
        // would panic.
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(EnvoyStream(self.0.open_stream(id))))
    }
}

struct EnvoyStream(Stream<Envoy>);

impl Context for EnvoyStream {
    fn on_http_call_response(&mut self, token: u32, headers: usize, body: usize, _trailers: usize) {
        self.0.on_call_answer(token, headers, body);
    }
}

impl HttpContext for EnvoyStream {
    fn on_http_request_headers(&mut self, _headers: usize, _end: bool) -> Action {
        action(self.0.on_request_headers())
    }

    fn on_http_request_trailers(&mut self, _trailers: usize) -> Action {
        action(self.0.on_request_trailers())
    }
}

const fn action(flow: Flow) -> Action {
    match flow {
        Flow::Continue => Action::Continue,
        Flow::Pause => Action::Pause,
    }
}
