# check: what must be clean before a commit.  test: the README's test command.  build: a release binary.
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: check test race bench build

check:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run: gofmt -w ."; exit 1; }
	go mod verify
	go vet ./...
	GOOS=darwin CGO_ENABLED=0 go vet ./...
	GOOS=windows go vet ./...
	go run $(STATICCHECK) ./...

test:
	go test ./...

race:
	go test -race ./...

bench:
	go test -run '^$$' -bench . -benchtime 2s ./proxy ./rules ./inject ./secrets ./certs

build:
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o dist/credproxy .
