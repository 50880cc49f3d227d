// Command juicefs-csi-dashboard shows JuiceFS volumes, mount pods and the pods
// that use them in a browser.
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
	"github.com/juicefs-csi/driver/services/dashboard/internal/app"
)

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(arguments []string) int {
	options := app.DefaultOptions()
	flags := pflag.NewFlagSet("juicefs-csi-dashboard", pflag.ContinueOnError)
	options.AddFlags(flags)
	printVersion := flags.Bool("version", false, "print the release and exit")
	if err := flags.Parse(arguments); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return 0
		}
		return fail(err)
	}
	if *printVersion {
		fmt.Println(version.Release())
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
	fmt.Fprintf(os.Stderr, "juicefs-csi-dashboard: %v\n", err)
	return 1
}
