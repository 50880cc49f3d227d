// Package command is the command tree of kubectl-jfs.
package command

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/juicefs-csi/driver/cli/kubectl-jfs/internal/cluster"
	"github.com/juicefs-csi/driver/cli/kubectl-jfs/internal/table"
	"github.com/juicefs-csi/driver/libs/inventory"
)

// Connector opens a cluster; cluster.Connect outside of tests.
type Connector func(cluster.Flags) (*cluster.Cluster, error)

// options are the flags that all commands share.
type options struct {
	connect        Connector
	now            func() time.Time
	flags          cluster.Flags
	allNamespaces  bool
	mountNamespace string
	driver         string
	output         string
}

// New makes the command tree. Commands write to the command's output and return
// their errors.
func New(connect Connector) *cobra.Command {
	o := &options{connect: connect, now: time.Now}
	root := &cobra.Command{
		Use:           "kubectl-jfs",
		Short:         "Look at JuiceFS volumes of a Kubernetes cluster",
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl jfs"},
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&o.flags.Kubeconfig, "kubeconfig", "", "path of the kubeconfig file; empty for $KUBECONFIG or ~/.kube/config")
	flags.StringVar(&o.flags.Context, "context", "", "context of the kubeconfig file; empty for the current one")
	flags.StringVarP(&o.flags.Namespace, "namespace", "n", "", "namespace of application pods; empty for the context's")
	flags.BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "application pods of all namespaces")
	flags.StringVarP(&o.mountNamespace, "mount-namespace", "m", "kube-system", "namespace of the mount pods")
	flags.StringVar(&o.driver, "driver-name", inventory.DriverName, "name of the CSI driver")
	flags.StringVarP(&o.output, "output", "o", "", "table, wide, json or yaml")
	root.AddCommand(newMount(o), newPod(o), newVersion(o))
	return root
}

// open connects and checks the output format, before anything is read.
func (o *options) open() (*cluster.Cluster, table.Format, error) {
	format, err := table.ParseFormat(o.output)
	if err != nil {
		return nil, "", err
	}
	c, err := o.connect(o.flags)
	if err != nil {
		return nil, "", fmt.Errorf("connect: %w", err)
	}
	return c, format, nil
}
