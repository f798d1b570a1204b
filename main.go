// Command credproxy is a local HTTP(S) forward proxy that holds the keys: apps carry no secret,
// credproxy puts the right credential on each outbound request.
package main

import (
	"os"

	"github.com/credproxy/credproxy/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
