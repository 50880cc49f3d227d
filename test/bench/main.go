// Command bench measures the driver on the local cluster, prints a table and
// writes the figures as JSON. docs/benchmarks.md says what each figure means.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/juicefs-csi/driver/test/devcluster"
	"github.com/juicefs-csi/driver/test/local"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	tree, err := local.FindTree()
	if err != nil {
		return err
	}
	var options options
	counts := defaultCounts()
	flag.StringVar(&options.dir, "dir", devcluster.DefaultDir, "state directory of the cluster")
	flag.StringVar(&options.output, "output", filepath.Join(tree.Root, "test", "bench", "results.json"), "where the figures go")
	flag.StringVar(&options.only, "only", "", "measure one part: "+partNames()+"; nothing is written then")
	flag.BoolVar(&options.keep, "keep", false, "leave the cluster running")
	flag.IntVar(&counts.floor, "floor", counts.floor, "pods without a volume")
	flag.IntVar(&counts.cold, "cold", counts.cold, "publishes of volumes that are not mounted")
	flag.IntVar(&counts.warm, "warm", counts.warm, "publishes of a mounted volume")
	flag.IntVar(&counts.handOvers, "hand-overs", counts.handOvers, "planned hand-overs under load")
	flag.IntVar(&counts.kills, "kills", counts.kills, "kills of each process under load")
	flag.Parse()
	options.counts = counts
	options.helm = environment("HELM", "helm")
	options.release = environment("RELEASE", "v0.1.0")
	options.kubernetes = os.Getenv("KUBERNETES_VERSION")
	options.cache = devcluster.DefaultCacheDir(os.Getenv)

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return measure(ctx, tree, options)
}

func environment(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
