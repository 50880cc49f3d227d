// Command app is the application of the demo: one pod writes numbered lines to
// a file of a volume and measures its own system calls, another one reads the
// file and checks that no line is missing.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("app write|read", flag.ContinueOnError)
	path := flags.String("file", "/data/lines", "the file that is written or read")
	if len(args) == 0 {
		return fmt.Errorf("want write or read")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("read host name: %w", err)
	}
	switch args[0] {
	case "write":
		return (&writer{path: *path, host: host, out: os.Stdout, limit: fileLimit}).run(ctx)
	case "read":
		return (&reader{path: *path, out: os.Stdout}).run(ctx)
	}
	return fmt.Errorf("%q: want write or read", args[0])
}
