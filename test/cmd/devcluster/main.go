// Command devcluster runs a real Kubernetes cluster on one Linux machine; see
// docs/devcluster.md.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := newCommand(os.Getenv).ExecuteContext(ctx)
	stop()
	code, show := exitCode(err)
	if show {
		fmt.Fprintln(os.Stderr, "devcluster:", err)
	}
	os.Exit(code)
}
