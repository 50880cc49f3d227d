package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/juicefs-csi/driver/test/devcluster"
)

// Traces names all that the driver keeps: Secrets, mount pods and Jobs of its
// namespace; private files, mount directories and mounts of the nodes; FUSE
// descriptors that fdvault holds, and mounts that the mount manager remembers.
// Spare mount pods are no traces: they belong to no mount.
func Traces(ctx context.Context, cluster *devcluster.Cluster, kube kubernetes.Interface) (map[string]bool, error) {
	traces := make(map[string]bool)
	if err := objectTraces(ctx, kube, traces); err != nil {
		return nil, err
	}
	if err := recordTraces(ctx, kube, traces); err != nil {
		return nil, err
	}
	for _, node := range cluster.Nodes() {
		if err := nodeTraces(ctx, cluster, node.Name, traces); err != nil {
			return nil, err
		}
	}
	return traces, nil
}

func objectTraces(ctx context.Context, kube kubernetes.Interface, traces map[string]bool) error {
	secrets, err := kube.CoreV1().Secrets(Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list secrets: %w", err)
	}
	for _, secret := range secrets.Items {
		traces["secret "+secret.Name] = true
	}
	jobs, err := kube.BatchV1().Jobs(Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	for _, job := range jobs.Items {
		traces["job "+job.Name] = true
	}
	pods, err := kube.CoreV1().Pods(Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/name in (juicefs-mount, juicefs-job),!" + SpareLabel,
	})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	for _, pod := range pods.Items {
		traces["pod "+pod.Name] = true
	}
	return nil
}

// recordTraces names the mounts in the stores of the mount managers, by state.
func recordTraces(ctx context.Context, kube kubernetes.Interface, traces map[string]bool) error {
	managers, err := kube.CoreV1().Pods(Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=juicefs-csi-mountmgr"})
	if err != nil {
		return fmt.Errorf("list mount managers: %w", err)
	}
	for i := range managers.Items {
		pod := &managers.Items[i]
		lines, err := MountManagerMetrics(ctx, kube, pod.Name)
		if err != nil {
			return err
		}
		for _, line := range lines {
			series, count, _ := strings.Cut(line, " ")
			if strings.HasPrefix(series, "juicefs_csi_mountmgr_mounts{") && count != "0" {
				traces[pod.Spec.NodeName+": "+series+" "+count] = true
			}
		}
	}
	return nil
}

// MountManagerMetrics are the metrics of a mount manager's pod, a line each.
func MountManagerMetrics(ctx context.Context, kube kubernetes.Interface, pod string) ([]string, error) {
	text, err := kube.CoreV1().Pods(Namespace).ProxyGet("http", pod, "9569", "metrics", nil).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("metrics of mount manager %s: %w", pod, err)
	}
	return strings.Split(string(text), "\n"), nil
}

// SpareLabel is on mount pods that wait for a mount.
const SpareLabel = "csi.juicefs.com/spare"

func nodeTraces(ctx context.Context, cluster *devcluster.Cluster, node string, traces map[string]bool) error {
	for _, dir := range []string{"/run/juicefs-csi/private", "/var/lib/juicefs/volume"} {
		listing, err := cluster.NodeOutput(ctx, node, "ls", dir)
		if err != nil {
			return err
		}
		for name := range strings.FieldsSeq(string(listing)) {
			traces[node+":"+dir+"/"+name] = true
		}
	}
	mounts, err := cluster.NodeOutput(ctx, node, "cat", "/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, " - fuse") {
			traces[node+": mount at "+strings.Fields(line)[4]] = true
		}
	}
	held, err := descriptors(cluster.Cgroup(node))
	if err == nil && held > 0 {
		traces[fmt.Sprintf("%s: fdvault holds %d descriptors", node, held)] = true
	}
	return err
}

// descriptors counts the FUSE descriptors of the node's fdvault.
func descriptors(cgroup string) (int, error) {
	vaults, err := Processes("juicefs-fdvault", cgroup+"/")
	if err != nil {
		return 0, err
	}
	held := 0
	for _, pid := range vaults {
		dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // It has just ended.
		}
		for _, entry := range entries {
			if target, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil && target == "/dev/fuse" {
				held++
			}
		}
	}
	return held, nil
}
