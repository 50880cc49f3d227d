// Command devcluster runs a real Kubernetes cluster on one Linux machine; see
// docs/devcluster.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := newCommand(os.Getenv).ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	// A command run for the user has said itself what was wrong.
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 && isQuiet(err) {
		os.Exit(exit.ExitCode())
	}
	fmt.Fprintln(os.Stderr, "devcluster:", err)
	os.Exit(1)
}
