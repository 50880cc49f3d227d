package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/juicefs-csi/driver/test/devcluster"
	"github.com/juicefs-csi/driver/test/local"
)

// summary tells what runs and how to go on.
func (d *demo) summary(ctx context.Context) error {
	address, err := d.ask(ctx, "-n", local.Namespace, "get", "service", "juicefs-csi-dashboard",
		"-o", "jsonpath={.spec.clusterIP}:{.spec.ports[0].port}")
	if err != nil {
		return err
	}
	d.step("done")
	_, err = fmt.Fprintf(d.out, `
== What runs
cluster      %[1]d nodes on this machine, state in %[2]s
driver       helm release %[3]s in namespace %[4]s
volume       claim demo/shared; metadata in %[5]s, data below %[6]s
pods         demo/writer on node-1, demo/reader on %[7]s

== Look around
export PATH=%[8]s:$PATH    # kubectl of this cluster, and kubectl-jfs
kubectl -n demo get pods,pvc
kubectl -n demo logs -f deployment/reader
kubectl -n demo exec deployment/writer -- tail -n 2 /data/lines
kubectl jfs mount
kubectl jfs pod -A -o wide

dashboard    http://%[9]s   (from elsewhere: ssh -L 8088:%[9]s THIS-MACHINE, then http://localhost:8088)
token for it kubectl -n %[4]s create token juicefs-csi-dashboard-sa

== Take it away
make demo-down%[10]s
`, len(d.Nodes()), filepath.Dir(filepath.Dir(d.Kubeconfig())), local.ReleaseName, local.Namespace, d.metaName(), dataDir,
		d.readerNode(), filepath.Dir(d.kubectlPath), address, d.dirHint())
	return err
}

func (d *demo) metaName() string {
	if d.meta == "redis" {
		return "Redis at " + devcluster.RedisAddress
	}
	return "SQLite at " + dataDir + "/meta.db"
}

// dirHint is for a cluster in a directory of its own.
func (d *demo) dirHint() string {
	if d.options.cluster.Dir == devcluster.DefaultDir {
		return ""
	}
	return " DEMO_DIR=" + d.options.cluster.Dir
}

// diagnose shows what a failed demo left, as far as it can be asked.
func (d *demo) diagnose(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	d.title("What the cluster says")
	for _, args := range [][]string{
		{"get", "pods", "-A", "-o", "wide"},
		{"-n", namespace, "get", "events", "--field-selector", "type=Warning,reason!=MissingClusterDNS", "--sort-by", ".lastTimestamp"},
	} {
		if err := d.show(ctx, args...); err != nil {
			d.step("%v", err)
		}
	}
}

// down removes the cluster, the data and bin/kubectl; all of them may be gone.
func down(ctx context.Context, opts options, out io.Writer) error {
	if err := devcluster.Down(ctx, opts.cluster.Dir, out); err != nil {
		return err
	}
	tree, err := local.FindTree()
	if err != nil {
		return err
	}
	if err := os.RemoveAll(dataDir); err != nil {
		return fmt.Errorf("remove the data: %w", err)
	}
	if err := os.Remove(kubectlPath(tree.Root)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove kubectl: %w", err)
	}
	_, err = fmt.Fprintf(out, "the demo is gone: the cluster, %s and bin/kubectl; builds and downloads stay in %s\n",
		dataDir, opts.cluster.CacheDir)
	return err
}
