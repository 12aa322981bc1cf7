//! Each view from traces made by hand.
