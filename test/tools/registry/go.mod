// A container registry for pull tests, pinned. The product never depends on this module.
module github.com/nodeagent/nodeagent/test/tools/registry

go 1.26.0

tool github.com/google/go-containerregistry/cmd/registry

require github.com/google/go-containerregistry v0.22.1 // indirect
