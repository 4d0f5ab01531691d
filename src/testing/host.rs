//! A host whose answers are data.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use medbind_core::time::Timestamp;

use crate::host::{
    CallAnswer, Headers, Host, HostError, LocalReply, LogLevel, MetricKind, RequestMap,
};

/// What all workers of one Envoy share: the clock, shared data, metrics.
#[derive(Clone, Default)]
pub struct World(Rc<WorldState>);

#[derive(Default)]
struct WorldState {
    now: Cell<Timestamp>,
    shared: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    cas: Cell<u32>,
    reads: Cell<u64>,
    metrics: RefCell<BTreeMap<String, u64>>,
}

impl World {
    /// An empty world, at this time.
    pub fn at(now: Timestamp) -> Self {
        let world = Self::default();
        world.set_now(now);
        world
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.0.now.get()
    }

    /// Sets the time.
    pub fn set_now(&self, now: Timestamp) {
        self.0.now.set(now);
    }

    /// Lets this much time pass.
    pub fn pass(&self, span: Duration) {
        self.set_now(self.now().after(span));
    }

    /// Reads shared data, with its compare-and-swap number.
    pub fn shared(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.0.reads.set(self.0.reads.get() + 1);
        self.0.shared.borrow().get(key).cloned()
    }

    /// Writes shared data as Envoy does: a `cas` of `None` (or 0) overwrites, an absent key takes
    /// any.
    pub fn set_shared(&self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), HostError> {
        let mut shared = self.0.shared.borrow_mut();
        if let (Some((_, current)), Some(cas)) = (shared.get(key), cas.filter(|cas| *cas != 0))
            && *current != cas
        {
            return Err(HostError::CasMismatch);
        }
        self.0.cas.set(self.0.cas.get() + 1);
        shared.insert(key.to_owned(), (value.to_vec(), self.0.cas.get()));
        Ok(())
    }

    /// How often shared data was read.
    pub fn shared_reads(&self) -> u64 {
        self.0.reads.get()
    }

    /// All shared data gone, as after a restart.
    pub fn forget_shared(&self) {
        self.0.shared.borrow_mut().clear();
    }

    /// The value of a metric; 0 where it was never defined.
    pub fn metric(&self, name: &str) -> u64 {
        self.0.metrics.borrow().get(name).copied().unwrap_or(0)
    }

    /// Every metric that is not 0.
    pub fn metrics(&self) -> BTreeMap<String, u64> {
        let metrics = self.0.metrics.borrow();
        let counted = metrics.iter().filter(|(_, value)| **value != 0);
        counted
            .map(|(name, value)| (name.clone(), *value))
            .collect()
    }
}

/// A host call that can be told to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostCall {
    /// The headers of a request.
    RequestHeaders,
    /// The trailers of a request.
    RequestTrailers,
    /// Setting a header.
    SetHeader,
    /// Removing a header.
    RemoveHeader,
    /// Every property.
    Property,
    /// Writing filter state.
    SetFilterState,
    /// Reading shared data.
    SharedData,
    /// Writing shared data.
    SetSharedData,
    /// Calls to clusters.
    Get,
    /// Switching contexts.
    SetEffectiveContext,
    /// Letting a request go on.
    Resume,
    /// Answering a request.
    SendResponse,
    /// Every metric call.
    Metrics,
    /// Foreign functions.
    ForeignFunction,
}

/// A call that the module made and nobody has answered yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeCall {
    /// Its number.
    pub token: u32,
    /// The context that gets the answer; nobody does where that has ended.
    pub context: u32,
    /// The cluster.
    pub cluster: String,
    /// `:authority`.
    pub authority: String,
    /// `:path`.
    pub path: String,
    /// The deadline.
    pub timeout: Duration,
}

#[derive(Default)]
pub(super) struct StreamState {
    pub headers: Headers,
    pub trailers: Headers,
    pub properties: BTreeMap<String, Vec<u8>>,
    pub filter_state: BTreeMap<String, String>,
    pub reply: Option<super::SeenReply>,
    pub resumed: bool,
    pub reset: bool,
}

/// One worker's host.
#[derive(Clone)]
pub struct FakeHost(Rc<WorkerState>);

type Foreign = Rc<dyn Fn(&str, &[u8]) -> Result<Vec<u8>, HostError>>;

struct WorkerState {
    world: World,
    configuration: RefCell<Vec<u8>>,
    streams: RefCell<BTreeMap<u32, StreamState>>,
    active: Cell<u32>,
    effective: Cell<u32>,
    calls: RefCell<Vec<FakeCall>>,
    next_token: Cell<u32>,
    answer: RefCell<Option<(u16, Vec<u8>)>>,
    dead_clusters: RefCell<BTreeSet<String>>,
    most_calls: Cell<usize>,
    refused_calls: Cell<usize>,
    log: RefCell<Vec<(LogLevel, String)>>,
    failing: RefCell<BTreeSet<HostCall>>,
    foreign: RefCell<Option<Foreign>>,
    metric_names: RefCell<Vec<String>>,
    tick_period: Cell<Option<Duration>>,
    host_calls: Cell<u64>,
}

impl FakeHost {
    /// A worker of this world.
    pub fn new(world: &World) -> Self {
        Self(Rc::new(WorkerState {
            world: world.clone(),
            configuration: RefCell::default(),
            streams: RefCell::default(),
            active: Cell::new(0),
            effective: Cell::new(0),
            calls: RefCell::default(),
            next_token: Cell::new(1),
            answer: RefCell::default(),
            dead_clusters: RefCell::default(),
            most_calls: Cell::new(usize::MAX),
            refused_calls: Cell::new(0),
            log: RefCell::default(),
            failing: RefCell::default(),
            foreign: RefCell::default(),
            metric_names: RefCell::default(),
            tick_period: Cell::new(None),
            host_calls: Cell::new(0),
        }))
    }

    /// The world it is in.
    pub fn world(&self) -> &World {
        &self.0.world
    }

    /// From now on this call answers with an error.
    pub fn fail(&self, call: HostCall) {
        self.0.failing.borrow_mut().insert(call);
    }

    /// Every call answers again.
    pub fn mend(&self) {
        self.0.failing.borrow_mut().clear();
    }

    /// Calls to this cluster are refused at once, as for one that does not exist.
    pub fn no_such_cluster(&self, cluster: &str) {
        self.0.dead_clusters.borrow_mut().insert(cluster.to_owned());
    }

    /// Calls are refused at once where so many are open, as by the circuit breaker of a cluster.
    pub fn most_calls(&self, most: usize) {
        self.0.most_calls.set(most);
    }

    /// How many calls were refused for that.
    pub fn refused_calls(&self) -> usize {
        self.0.refused_calls.get()
    }

    /// Offers foreign functions; without it there are none.
    pub fn offer_foreign_functions(
        &self,
        functions: impl Fn(&str, &[u8]) -> Result<Vec<u8>, HostError> + 'static,
    ) {
        *self.0.foreign.borrow_mut() = Some(Rc::new(functions));
    }

    /// The calls that wait for an answer.
    pub fn calls(&self) -> Vec<FakeCall> {
        self.0.calls.borrow().clone()
    }

    /// The lines logged so far.
    pub fn log_lines(&self) -> Vec<String> {
        self.0
            .log
            .borrow()
            .iter()
            .map(|(_, line)| line.clone())
            .collect()
    }

    /// The lines logged so far, with their level.
    pub fn log_entries(&self) -> Vec<(LogLevel, String)> {
        self.0.log.borrow().clone()
    }

    /// The tick that was asked for.
    pub fn tick_period(&self) -> Option<Duration> {
        self.0.tick_period.get()
    }

    /// How many host calls were made.
    pub fn host_calls(&self) -> u64 {
        self.0.host_calls.get()
    }

    pub(super) fn configure(&self, configuration: &[u8]) {
        *self.0.configuration.borrow_mut() = configuration.to_vec();
    }

    pub(super) fn enter(&self, context: u32) {
        self.0.active.set(context);
        self.0.effective.set(context);
    }

    pub(super) fn open(&self, context: u32, state: StreamState) {
        self.0.streams.borrow_mut().insert(context, state);
    }

    pub(super) fn close(&self, context: u32) {
        // Its calls are the root context's, and go on.
        self.0.streams.borrow_mut().remove(&context);
    }

    pub(super) fn take_call(&self, token: u32) -> Option<FakeCall> {
        let mut calls = self.0.calls.borrow_mut();
        let place = calls.iter().position(|call| call.token == token)?;
        Some(calls.remove(place))
    }

    pub(super) fn set_answer(&self, answer: Option<(u16, Vec<u8>)>) {
        *self.0.answer.borrow_mut() = answer;
    }

    pub(super) fn stream<T>(
        &self,
        context: u32,
        read: impl FnOnce(&mut StreamState) -> T,
    ) -> Option<T> {
        self.0.streams.borrow_mut().get_mut(&context).map(read)
    }

    fn call(&self, call: HostCall) -> Result<(), HostError> {
        self.0.host_calls.set(self.0.host_calls.get() + 1);
        if self.0.failing.borrow().contains(&call) {
            Err(HostError::Status(10))
        } else {
            Ok(())
        }
    }

    fn here<T>(&self, read: impl FnOnce(&mut StreamState) -> T) -> Result<T, HostError> {
        self.stream(self.0.effective.get(), read)
            .ok_or(HostError::Status(2))
    }
}

fn map_of(state: &mut StreamState, map: RequestMap) -> &mut Headers {
    match map {
        RequestMap::Headers => &mut state.headers,
        RequestMap::Trailers => &mut state.trailers,
    }
}

impl Host for FakeHost {
    fn now(&self) -> Timestamp {
        self.0.world.now()
    }

    fn nanoseconds(&self) -> u64 {
        u64::try_from(self.now().unix_millis()).unwrap_or(0) * 1_000_000
    }

    fn log(&self, level: LogLevel, line: &str) {
        self.0.log.borrow_mut().push((level, line.to_owned()));
    }

    fn plugin_configuration(&self) -> Result<Option<Vec<u8>>, HostError> {
        let configuration = self.0.configuration.borrow().clone();
        Ok(Some(configuration).filter(|text| !text.is_empty()))
    }

    fn set_tick_period(&self, period: Duration) -> Result<(), HostError> {
        self.0.tick_period.set(Some(period));
        Ok(())
    }

    fn request_headers(&self) -> Result<Headers, HostError> {
        self.call(HostCall::RequestHeaders)?;
        self.here(|stream| stream.headers.clone())
    }

    fn request_trailers(&self) -> Result<Headers, HostError> {
        self.call(HostCall::RequestTrailers)?;
        self.here(|stream| stream.trailers.clone())
    }

    fn set_header(&self, map: RequestMap, name: &str, value: &[u8]) -> Result<(), HostError> {
        self.call(HostCall::SetHeader)?;
        self.here(|stream| {
            let headers = map_of(stream, map);
            // Envoy writes the first of several and leaves the others: whoever wants one value
            // takes the name away first.
            match headers.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => *known = value.to_vec(),
                None => headers.push((name.to_owned(), value.to_vec())),
            }
        })
    }

    fn remove_header(&self, map: RequestMap, name: &str) -> Result<(), HostError> {
        self.call(HostCall::RemoveHeader)?;
        self.here(|stream| map_of(stream, map).retain(|(known, _)| known != name))
    }

    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError> {
        self.call(HostCall::Property)?;
        self.here(|stream| stream.properties.get(&path.join(".")).cloned())
    }

    fn set_filter_state(&self, name: &str, value: &str) -> Result<(), HostError> {
        self.call(HostCall::SetFilterState)?;
        self.here(|stream| {
            stream
                .filter_state
                .insert(name.to_owned(), value.to_owned());
        })
    }

    fn shared_data(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError> {
        self.call(HostCall::SharedData)?;
        Ok(self.0.world.shared(key))
    }

    fn set_shared_data(&self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), HostError> {
        self.call(HostCall::SetSharedData)?;
        self.0.world.set_shared(key, value, cas)
    }

    fn get(
        &self,
        cluster: &str,
        authority: &str,
        path: &str,
        timeout: Duration,
    ) -> Result<u32, HostError> {
        self.call(HostCall::Get)?;
        if self.0.dead_clusters.borrow().contains(cluster) {
            return Err(HostError::Status(2));
        }
        if self.0.calls.borrow().len() >= self.0.most_calls.get() {
            self.0.refused_calls.set(self.0.refused_calls.get() + 1);
            return Err(HostError::Status(10));
        }
        let token = self.0.next_token.replace(self.0.next_token.get() + 1);
        self.0.calls.borrow_mut().push(FakeCall {
            token,
            context: self.0.active.get(),
            cluster: cluster.to_owned(),
            authority: authority.to_owned(),
            path: path.to_owned(),
            timeout,
        });
        Ok(token)
    }

    fn call_answer(&self, headers: usize, _body: usize) -> CallAnswer {
        let answer = self.0.answer.borrow_mut().take();
        match answer {
            Some((status, body)) if headers > 0 => CallAnswer {
                status: Some(status),
                retry_after: None,
                body,
            },
            _ => CallAnswer::default(),
        }
    }

    fn set_effective_context(&self, context: u32) -> Result<(), HostError> {
        self.call(HostCall::SetEffectiveContext)?;
        // 1 is the root context.
        if context == 1 || self.0.streams.borrow().contains_key(&context) {
            self.0.effective.set(context);
            Ok(())
        } else {
            Err(HostError::Status(2))
        }
    }

    fn resume_request(&self) -> Result<(), HostError> {
        self.call(HostCall::Resume)?;
        self.here(|stream| stream.resumed = true)
    }

    fn reset_stream(&self) -> Result<(), HostError> {
        self.here(|stream| stream.reset = true)
    }

    fn send_response(&self, reply: &LocalReply<'_>) -> Result<(), HostError> {
        self.call(HostCall::SendResponse)?;
        self.here(|stream| stream.reply = Some(super::SeenReply::from(reply)))
    }

    fn define_metric(&self, _kind: MetricKind, name: &str) -> Result<u32, HostError> {
        self.call(HostCall::Metrics)?;
        let mut names = self.0.metric_names.borrow_mut();
        names.push(name.to_owned());
        Ok(u32::try_from(names.len() - 1).unwrap_or(u32::MAX))
    }

    fn increment_metric(&self, metric: u32, by: u32) -> Result<(), HostError> {
        self.call(HostCall::Metrics)?;
        let name = self.metric_name(metric)?;
        *self.0.world.0.metrics.borrow_mut().entry(name).or_default() += u64::from(by);
        Ok(())
    }

    fn record_metric(&self, metric: u32, value: u64) -> Result<(), HostError> {
        self.call(HostCall::Metrics)?;
        let name = self.metric_name(metric)?;
        self.0.world.0.metrics.borrow_mut().insert(name, value);
        Ok(())
    }

    fn foreign_function(&self, name: &str, argument: &[u8]) -> Result<Vec<u8>, HostError> {
        self.call(HostCall::ForeignFunction)?;
        let functions = self.0.foreign.borrow().clone();
        functions.map_or(Err(HostError::Status(1)), |functions| {
            functions(name, argument)
        })
    }
}

impl FakeHost {
    fn metric_name(&self, metric: u32) -> Result<String, HostError> {
        let names = self.0.metric_names.borrow();
        let place = usize::try_from(metric).unwrap_or(usize::MAX);
        names.get(place).cloned().ok_or(HostError::Status(1))
    }
}
