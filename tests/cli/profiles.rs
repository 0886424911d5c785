//! placeholder of profiles tests
