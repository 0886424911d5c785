//! placeholder of providers tests
