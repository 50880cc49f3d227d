package command

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/cli/kubectl-jfs/internal/cluster"
	"github.com/juicefs-csi/driver/cli/kubectl-jfs/internal/table"
	"github.com/juicefs-csi/driver/libs/inventory"
)

// podRow is one application pod.
type podRow struct {
	Namespace string      `json:"namespace"`
	Name      string      `json:"name"`
	Status    string      `json:"status"`
	Problem   string      `json:"problem,omitempty"`
	Node      string      `json:"node"`
	Volumes   []volumeRow `json:"volumes"`
	MountPods []string    `json:"mountPods"`
	CreatedAt time.Time   `json:"createdAt"`
}

// volumeRow is one JuiceFS volume of a pod.
type volumeRow struct {
	Claim  string `json:"claim"`
	Volume string `json:"volume,omitempty"`
}

func newPod(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "pod",
		Aliases: []string{"pods", "po"},
		Short:   "List application pods that use JuiceFS, with their mount pods",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, format, err := o.open()
			if err != nil {
				return err
			}
			namespace := c.Namespace
			if o.allNamespaces {
				namespace = metav1.NamespaceAll
			}
			rows, err := podRows(cmd.Context(), c, namespace, o)
			if err != nil {
				return err
			}
			return table.Write(cmd.OutOrStdout(), format, podColumns(o.now()), rows)
		},
	}
}

func podColumns(now time.Time) []table.Column[podRow] {
	return []table.Column[podRow]{
		{Name: "NAMESPACE", Cell: func(r podRow) string { return r.Namespace }},
		{Name: "NAME", Cell: func(r podRow) string { return r.Name }},
		{Name: "STATUS", Cell: func(r podRow) string { return r.Status }},
		{Name: "CLAIMS", Cell: func(r podRow) string {
			return joinVolumes(r.Volumes, func(v volumeRow) string { return v.Claim })
		}},
		{Name: "MOUNT PODS", Cell: func(r podRow) string { return strings.Join(r.MountPods, ",") }},
		{Name: "AGE", Cell: func(r podRow) string { return table.Age(now, r.CreatedAt) }},
		{Name: "NODE", Wide: true, Cell: func(r podRow) string { return r.Node }},
		{Name: "VOLUMES", Wide: true, Cell: func(r podRow) string {
			return joinVolumes(r.Volumes, func(v volumeRow) string { return cmp.Or(v.Volume, "<unbound>") })
		}},
		{Name: "PROBLEM", Wide: true, Cell: func(r podRow) string { return r.Problem }},
	}
}

func joinVolumes(volumes []volumeRow, text func(volumeRow) string) string {
	texts := make([]string, len(volumes))
	for i, v := range volumes {
		texts[i] = text(v)
	}
	return strings.Join(texts, ",")
}

func podRows(ctx context.Context, c *cluster.Cluster, namespace string, o *options) ([]podRow, error) {
	pods, err := c.Pods(ctx, namespace)
	if err != nil {
		return nil, err
	}
	lookup, err := c.Volumes(ctx, namespace, o.driver)
	if err != nil {
		return nil, err
	}
	// A user of one namespace may still see which of its pods use JuiceFS.
	mountPods, err := c.MountPods(ctx, o.mountNamespace)
	if err != nil && !apierrors.IsForbidden(err) {
		return nil, err
	}
	mountsOf := map[string][]*corev1.Pod{}
	for _, mountPod := range mountPods {
		for _, uid := range inventory.References(mountPod) {
			mountsOf[uid] = append(mountsOf[uid], mountPod)
		}
	}
	var rows []podRow
	for _, pod := range pods {
		if volumes := lookup.Volumes(pod); len(volumes) > 0 {
			rows = append(rows, newPodRow(pod, volumes, mountsOf[string(pod.UID)]))
		}
	}
	slices.SortFunc(rows, func(a, b podRow) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return rows, nil
}

func newPodRow(pod *corev1.Pod, volumes []inventory.Volume, mountPods []*corev1.Pod) podRow {
	row := podRow{
		Namespace: pod.Namespace,
		Name:      pod.Name,
		Status:    inventory.Status(pod),
		Problem:   inventory.Problem(pod),
		Node:      pod.Spec.NodeName,
		CreatedAt: pod.CreationTimestamp.Time,
		MountPods: []string{},
	}
	for _, v := range volumes {
		row.Volumes = append(row.Volumes, volumeRow{Claim: v.Claim, Volume: v.Name})
	}
	for _, m := range mountPods {
		row.MountPods = append(row.MountPods, m.Name)
		if p := inventory.Problem(m); p != "" && row.Problem == "" {
			row.Problem = "mount pod " + m.Name + ": " + p
		}
	}
	slices.Sort(row.MountPods)
	return row
}
