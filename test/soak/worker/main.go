// Command worker is what the application pods of the soak test run.
//
//	worker run DIR LEDGER     write and read files below DIR until SIGTERM
//	worker verify DIR LEDGERS check every file that a ledger names
//
// A file's name is the hash of its content, and its name is written to the
// ledger, which is not on the tested file system, once the file system has
// acknowledged it. The first failed operation ends the program with code 1.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if len(args) == 3 {
		switch args[0] {
		case "run":
			return work(ctx, args[1], args[2])
		case "verify":
			return verify(args[1], args[2])
		}
	}
	return fmt.Errorf("usage: worker run DIR LEDGER | worker verify DIR LEDGERS")
}
