//! Who gets to the device service past the guard? Nobody, whatever the infrastructure CA signed for
//! them: edges alone are let in.

use medbind_integration::certificate::{Authority, Identity};
use medbind_integration::client::{Answer, Ask, Client};
use medbind_integration::upstream::Upstream;
use medbind_registry::role::Role;

#[tokio::test]
async fn the_upstream_lets_edges_in_and_nobody_else_of_the_same_ca() {
    let infra = Authority::new("infrastructure").unwrap();
    let stranger = Authority::new("infrastructure").unwrap();
    let own = infra.issue_server(&["device-service"]).unwrap();
    let upstream = Upstream::start(&own, &infra).await.unwrap();
    let edge = Role::Edge("edge-1".parse().unwrap());
    let operator = Role::Operator("edge-1".parse().unwrap());
    let of = |ca: &Authority, role: &Role| Some(ca.issue_client(role).unwrap());
    let callers: [(&str, Option<Identity>, bool); 7] = [
        ("an edge", of(&infra, &edge), true),
        ("an operator", of(&infra, &operator), false),
        ("a client without a role", of(&infra, &Role::None), false),
        ("the service itself", Some(own), false),
        (
            "a server named like an edge",
            Some(infra.issue_server(&["edge-1"]).unwrap()),
            false,
        ),
        ("an edge of another CA", of(&stranger, &edge), false),
        ("nobody", None, false),
    ];
    for (who, identity, served) in callers {
        let seen = upstream.count();
        let client = Client::new(
            upstream.address(),
            "device-service",
            &infra,
            identity.as_ref(),
        );
        let answer = client.unwrap().send(&Ask::get("/")).await;
        let success = answer.as_ref().is_ok_and(Answer::is_success);
        assert_eq!(success, served, "{who}: {answer:?}");
        assert_eq!(upstream.count() - seen, usize::from(served), "{who}");
        if let Err(error) = answer {
            // Refused by the server, and not for want of a connection.
            let error = format!("{error:#}");
            assert!(error.contains("alert"), "{who}: {error}");
        }
    }
}
