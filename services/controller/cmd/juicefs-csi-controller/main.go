// Command juicefs-csi-controller makes and deletes JuiceFS volumes for
// Kubernetes.
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
	"github.com/juicefs-csi/driver/services/controller/internal/app"
)

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(arguments []string) int {
	options, err := app.DefaultOptions()
	if err != nil {
		return fail(err)
	}
	flags := pflag.NewFlagSet("juicefs-csi-controller", pflag.ContinueOnError)
	options.AddFlags(flags)
	printVersion := flags.Bool("version", false, "print the release and exit")
	if err := flags.Parse(arguments); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return 0
		}
		return fail(err)
	}
	if *printVersion {
		if _, err := fmt.Fprintln(os.Stdout, version.Release()); err != nil {
			return fail(err)
		}
		return 0
	}
	if err := options.Validate(); err != nil {
		return fail(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := app.Run(ctx, options); err != nil {
		return fail(err)
	}
	return 0
}

func fail(err error) int {
	fmt.Fprintf(os.Stderr, "juicefs-csi-controller: %v\n", err)
	return 1
}
