// Command soak creates and deletes pods at random on the local cluster while
// the services of its nodes are killed at random, and then looks for lost data
// and for anything left behind.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/juicefs-csi/driver/test/devcluster"
	"github.com/juicefs-csi/driver/test/local"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// options are what flags and environment say.
type options struct {
	dir, helm, kubernetes, cache string
	duration                     time.Duration
	seed                         uint64
	keep                         bool
}

func run() error {
	var o options
	flag.StringVar(&o.dir, "dir", devcluster.DefaultDir, "state directory of the cluster")
	flag.DurationVar(&o.duration, "duration", 30*time.Minute, "how long pods come and go")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "of the random choices; printed at start")
	flag.BoolVar(&o.keep, "keep", false, "leave the cluster running")
	flag.Parse()
	o.helm = os.Getenv("HELM")
	if o.helm == "" {
		o.helm = "helm"
	}
	o.kubernetes = os.Getenv("KUBERNETES_VERSION")
	o.cache = devcluster.DefaultCacheDir(os.Getenv)
	tree, err := local.FindTree()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return soak(ctx, tree, o)
}
