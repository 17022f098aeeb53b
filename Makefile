# Short names for what the README and .ci/run do; nothing else lives here.
.PHONY: build test lint ci
build:
	CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o bin/lockstitch ./cmd/lockstitch
test:
	go test ./...
lint:
	bash .ci/run gofmt vet lint
ci:
	bash .ci/run
