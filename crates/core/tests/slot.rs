//! Random sequences of operations on a slot, compared with its model.

use proptest::prelude::*;
use rendezvous_core::outcome::{Fault, Outcome};
use rendezvous_protocol::Side;
use testkit::slot_model::{Operation, check};

fn operation() -> impl Strategy<Value = Operation> {
    let side = prop_oneof![Just(Side::Source), Just(Side::Destination)];
    prop_oneof![
        4 => side.clone().prop_map(Operation::Connect),
        2 => side.prop_map(Operation::Leave),
        1 => Just(Operation::Report),
        1 => Just(Operation::Expire),
        1 => Just(Operation::Settle(Outcome::Finished)),
        1 => Just(Operation::Settle(Outcome::Failed(Fault::SourceDisconnected))),
    ]
}

proptest! {
    #[test]
    fn any_sequence_of_operations_agrees_with_the_model(history in prop::collection::vec(operation(), 0..40)) {
        check(history);
    }
}
