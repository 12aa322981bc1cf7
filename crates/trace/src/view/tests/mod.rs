//! Each view from traces made by hand: what it says of a healthy server, and of one in which a
//! single thing is wrong.

mod connections;
mod doctor;
mod heatmap;
mod kernel;
mod lanes;
mod numbers;
mod output;
mod series;
mod tape;
