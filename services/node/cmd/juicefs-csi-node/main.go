// Command juicefs-csi-node is the CSI node plugin: it answers kubelet and lets
// the mount manager of the node do the work.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/juicefs-csi/driver/libs/version"
	"github.com/juicefs-csi/driver/services/node/internal/app"
)

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "juicefs-csi-node:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	var options app.Options
	flags := pflag.NewFlagSet("juicefs-csi-node", pflag.ContinueOnError)
	options.AddFlags(flags)
	printVersion := flags.Bool("version", false, "print the release and exit")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if *printVersion {
		_, err := fmt.Fprintln(os.Stdout, version.Release())
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return app.Run(ctx, options)
}
