// Command demo shows the driver on a cluster of this machine: `up` starts the
// cluster, installs the charts, runs two pods that share a volume, and takes
// their mount pod away while they work; `down` removes all of it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/juicefs-csi/driver/test/devcluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := newCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	opts := options{
		helm:    envOr("HELM", "helm"),
		release: envOr("RELEASE", "v0.1.0"),
		cluster: devcluster.Options{
			CacheDir:          devcluster.DefaultCacheDir(os.Getenv),
			KubernetesVersion: os.Getenv("KUBERNETES_VERSION"),
		},
	}
	root := &cobra.Command{
		Use:           "demo",
		Short:         "Show the driver on a cluster of this machine",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.PersistentFlags().StringVar(&opts.cluster.Dir, "dir", envOr("DEMO_DIR", devcluster.DefaultDir), "state directory of the cluster")
	up := &cobra.Command{
		Use:   "up",
		Short: "Start everything, and show it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return up(cmd.Context(), opts, cmd.OutOrStdout())
		},
	}
	up.Flags().IntVar(&opts.cluster.Nodes, "nodes", 2, "nodes of the cluster")
	up.Flags().StringVar(&opts.meta, "meta", "sqlite", "metadata engine: sqlite or redis")
	up.Flags().StringVar(&opts.app, "app", "", "the static binary of test/demo/app")
	down := &cobra.Command{
		Use:   "down",
		Short: "Take the cluster and the data away",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return down(cmd.Context(), opts, cmd.OutOrStdout())
		},
	}
	root.AddCommand(up, down)
	return root
}

func envOr(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
