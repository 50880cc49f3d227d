// Command juicefs-fdvault holds a second copy of every FUSE descriptor of the
// node. See package vault.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/juicefs-csi/driver/libs/fdpass"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/vault"
)

// memoryLimit keeps the collector from letting a few MiB grow.
const memoryLimit = 8 << 20

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "juicefs-fdvault:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("juicefs-fdvault", flag.ContinueOnError)
	socket := flags.String("socket", "/run/juicefs-vault/vault.sock", "where the vault listens")
	if err := flags.Parse(args); err != nil {
		return err
	}
	debug.SetMemoryLimit(memoryLimit)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	listener, err := fdpass.Listen(*socket, 0o600)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	return vault.NewServer(vault.New(), log).Serve(ctx, listener)
}
