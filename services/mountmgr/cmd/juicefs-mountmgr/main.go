// Command juicefs-mountmgr makes and keeps the JuiceFS mounts of one node.
// Called as "juicefs-mountmgr probe ..." it is one of its own probe processes.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/app"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
)

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "juicefs-mountmgr:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 0 && args[0] == "probe" {
		return probe.Main(args[1:], os.Stdout)
	}
	var options app.Options
	flags := pflag.NewFlagSet("juicefs-mountmgr", pflag.ContinueOnError)
	options.AddFlags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return app.Run(ctx, options)
}
