//! A crowd of strangers over the fake host: the memory is bounded, and who is known stays known.

use medbind_filter::testing::{FakeRequest, Fate};
use medbind_integration::certificate::Spec;
use medbind_integration::scenario::native::Stage;
use medbind_integration::scenario::row::{Listener, Place};
use medbind_integration::scenario::world::World;

const CROWD: u32 = 100_000;

#[test]
fn a_hundred_thousand_refused_certificates_do_not_push_a_known_device_out() {
    let world = World::new().unwrap();
    let mut stage = Stage::set(&world, Place::Fleet).unwrap();
    let envoy = stage.listener(Listener::Open).unwrap();
    let known = world.site.device_ca.issue(&Spec::device("SN-A")).unwrap();
    let path = "/v1/devices/acme:SN-A/readings";
    let first = envoy.request(&FakeRequest::new("POST", path).certificate(known.der()));
    assert!(first.is_forwarded(), "{first:?}");

    // Each is another certificate, since the last octets of its signature differ.
    let stranger = world.site.stranger_ca.issue(&Spec::device("SN-A")).unwrap();
    let mut der = stranger.der().to_vec();
    let end = der.len() - 4;
    for number in 0..CROWD {
        der[end..].copy_from_slice(&number.to_be_bytes());
        let fate = envoy.request(&FakeRequest::new("POST", path).certificate(&der));
        assert_eq!(fate.code().as_deref(), Some("unknown_issuer"), "{number}");
    }

    let guard = envoy.root().guard().unwrap();
    let table = guard.config().local_table;
    let (known_peers, refused_peers) = guard.remembered_peers();
    assert_eq!(known_peers, 1);
    assert!(
        refused_peers <= usize::try_from(table.refused).unwrap(),
        "{refused_peers}"
    );
    // Without its certificate at hand: it is remembered.
    let again = envoy.request(&FakeRequest::new("POST", path).handshake_of(known.der()));
    assert!(matches!(again, Fate::Forwarded(_)), "{again:?}");
}
