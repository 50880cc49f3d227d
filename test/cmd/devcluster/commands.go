package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/juicefs-csi/driver/test/devcluster"
)

func newCommand(getenv func(string) string) *cobra.Command {
	opts := &devcluster.Options{}
	root := &cobra.Command{
		Use:           "devcluster",
		Short:         "A real Kubernetes cluster on this machine, without Docker or a registry",
		SilenceErrors: true,
		SilenceUsage:  true,
		// So that flags before `kubectl`, which leaves all flags after it to
		// the real kubectl, are parsed.
		TraverseChildren: true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&opts.Dir, "dir", devcluster.DefaultDir, "state directory")
	flags.StringVar(&opts.CacheDir, "cache", devcluster.DefaultCacheDir(getenv), "cache of builds ($JUICEFS_CSI_CACHE)")
	flags.StringVar(&opts.SourceDir, "source", "",
		"directory test/devcluster of a checkout (default: looked for from the working directory upwards)")
	flags.StringVar(&opts.KubernetesVersion, "kubernetes-version", getenv("KUBERNETES_VERSION"),
		"Kubernetes release ($KUBERNETES_VERSION; default: what test/devcluster/kubernetes pins)")
	root.AddCommand(
		upCommand(opts), downCommand(opts), statusCommand(opts), loadImageCommand(opts),
		kubectlCommand(opts), shellCommand(opts), execCommand(opts),
		restartCommand(opts), buildCommand(opts), pinCommand(opts),
	)
	return root
}

func upCommand(opts *devcluster.Options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the cluster and wait until its nodes are Ready",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := devcluster.Up(cmd.Context(), *opts, cmd.ErrOrStderr())
			return err
		},
	}
	cmd.Flags().IntVar(&opts.Nodes, "nodes", 2, "number of nodes")
	cmd.Flags().BoolVar(&opts.Redis, "redis", false, "also start Redis at "+devcluster.RedisAddress)
	return cmd
}

func downCommand(opts *devcluster.Options) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove the cluster and everything it left, running or not",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return devcluster.Down(cmd.Context(), opts.Dir, cmd.ErrOrStderr())
		},
	}
}

func statusCommand(opts *devcluster.Options) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show nodes, daemons and paths",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cluster, err := devcluster.Open(opts.Dir)
			if err != nil {
				return err
			}
			status, err := cluster.Status(cmd.Context())
			if err != nil {
				return err
			}
			if output != "json" {
				_, err := fmt.Fprint(cmd.OutOrStdout(), status)
				return err
			}
			encoder := json.NewEncoder(cmd.OutOrStdout())
			encoder.SetIndent("", "  ")
			return encoder.Encode(status)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func loadImageCommand(opts *devcluster.Options) *cobra.Command {
	var nodes []string
	cmd := &cobra.Command{
		Use:   "load-image ARCHIVE...",
		Short: "Import image archives (docker-archive or OCI layout) into the nodes",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, archives []string) error {
			cluster, err := devcluster.Open(opts.Dir)
			if err != nil {
				return err
			}
			for _, archive := range archives {
				if err := cluster.LoadImage(cmd.Context(), archive, nodes...); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&nodes, "node", nil, "only these nodes (default: all)")
	return cmd
}

func kubectlCommand(opts *devcluster.Options) *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl [ARGUMENTS]",
		Short:              "Run kubectl with all rights on the cluster",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			cluster, err := devcluster.Open(opts.Dir)
			if err != nil {
				return err
			}
			return quietExit(cluster.Kubectl(context.WithoutCancel(cmd.Context()), streams(), args...))
		},
	}
}

func shellCommand(opts *devcluster.Options) *cobra.Command {
	return &cobra.Command{
		Use:   "shell NODE",
		Short: "Start a shell in a node's namespaces",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return nodeExec(cmd.Context(), opts, args[0], []string{"/bin/bash"})
		},
	}
}

func execCommand(opts *devcluster.Options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec NODE COMMAND [ARGUMENTS]",
		Short: "Run a command in a node's namespaces",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return nodeExec(cmd.Context(), opts, args[0], args[1:])
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows NODE belongs to the command
	return cmd
}

func nodeExec(ctx context.Context, opts *devcluster.Options, node string, argv []string) error {
	cluster, err := devcluster.Open(opts.Dir)
	if err != nil {
		return err
	}
	// An interrupt goes to the command, which is in this terminal too.
	return quietExit(cluster.NodeExec(context.WithoutCancel(ctx), node, streams(), argv...))
}

func restartCommand(opts *devcluster.Options) *cobra.Command {
	return &cobra.Command{
		Use:       "restart kubelet|containerd|node NODE",
		Short:     "Kill and start a program of a node, or the whole node",
		Args:      cobra.ExactArgs(2),
		ValidArgs: []string{"kubelet", "containerd", "node"},
		RunE: func(cmd *cobra.Command, args []string) error {
			cluster, err := devcluster.Open(opts.Dir)
			if err != nil {
				return err
			}
			switch args[0] {
			case "kubelet":
				return cluster.RestartKubelet(cmd.Context(), args[1])
			case "containerd":
				return cluster.RestartContainerd(cmd.Context(), args[1])
			case "node":
				return cluster.RebootNode(cmd.Context(), args[1])
			}
			return fmt.Errorf("restart %q: want kubelet, containerd or node", args[0])
		},
	}
}

func buildCommand(opts *devcluster.Options) *cobra.Command {
	return &cobra.Command{
		Use:   "build",
		Short: "Build Kubernetes into the cache and print the path of the binary",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := devcluster.BuildKubernetes(cmd.Context(), *opts, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), path)
			return err
		},
	}
}

func pinCommand(opts *devcluster.Options) *cobra.Command {
	return &cobra.Command{
		Use:   "pin",
		Short: "Rewrite go.mod and go.sum of test/devcluster/kubernetes for --kubernetes-version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return devcluster.PinKubernetes(cmd.Context(), *opts, cmd.ErrOrStderr())
		},
	}
}

func streams() devcluster.Streams {
	return devcluster.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
}
