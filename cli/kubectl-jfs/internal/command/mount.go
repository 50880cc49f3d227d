package command

import (
	"cmp"
	"context"
	"slices"
	"strconv"
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

// mountRow is one mount pod.
type mountRow struct {
	Name      string    `json:"name"`
	Namespace string    `json:"namespace"`
	Node      string    `json:"node"`
	Status    string    `json:"status"`
	Problem   string    `json:"problem,omitempty"`
	Image     string    `json:"image"`
	UniqueID  string    `json:"uniqueID"`
	CreatedAt time.Time `json:"createdAt"`
	// Apps are the pods that use the mount: namespace/name, or the UID of one
	// that the user may not see.
	Apps []string `json:"apps"`
}

func newMount(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "mount",
		Aliases: []string{"mounts"},
		Short:   "List mount pods",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, format, err := o.open()
			if err != nil {
				return err
			}
			rows, err := mountRows(cmd.Context(), c, o.mountNamespace, format != table.Plain)
			if err != nil {
				return err
			}
			return table.Write(cmd.OutOrStdout(), format, mountColumns(o.now()), rows)
		},
	}
}

func mountColumns(now time.Time) []table.Column[mountRow] {
	return []table.Column[mountRow]{
		{Name: "NAME", Cell: func(r mountRow) string { return r.Name }},
		{Name: "NAMESPACE", Cell: func(r mountRow) string { return r.Namespace }},
		{Name: "NODE", Cell: func(r mountRow) string { return r.Node }},
		{Name: "STATUS", Cell: func(r mountRow) string { return r.Status }},
		{Name: "IMAGE", Cell: func(r mountRow) string { return r.Image }},
		{Name: "APPS", Cell: func(r mountRow) string { return strconv.Itoa(len(r.Apps)) }},
		{Name: "AGE", Cell: func(r mountRow) string { return table.Age(now, r.CreatedAt) }},
		{Name: "UNIQUE ID", Wide: true, Cell: func(r mountRow) string { return r.UniqueID }},
		{Name: "APP PODS", Wide: true, Cell: func(r mountRow) string { return strings.Join(r.Apps, ",") }},
		{Name: "PROBLEM", Wide: true, Cell: func(r mountRow) string { return r.Problem }},
	}
}

// mountRows lists mount pods by namespace and name. Names of application pods
// cost a list of all pods, so they are read only where they are shown.
func mountRows(ctx context.Context, c *cluster.Cluster, namespace string, names bool) ([]mountRow, error) {
	pods, err := c.MountPods(ctx, namespace)
	if err != nil {
		return nil, err
	}
	nameOf := map[string]string{}
	if names {
		if nameOf, err = podNames(ctx, c); err != nil {
			return nil, err
		}
	}
	rows := make([]mountRow, 0, len(pods))
	for _, pod := range pods {
		rows = append(rows, newMountRow(pod, nameOf))
	}
	slices.SortFunc(rows, func(a, b mountRow) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return rows, nil
}

func newMountRow(pod *corev1.Pod, nameOf map[string]string) mountRow {
	row := mountRow{
		Name:      pod.Name,
		Namespace: pod.Namespace,
		Node:      pod.Spec.NodeName,
		Status:    inventory.Status(pod),
		Problem:   inventory.Problem(pod),
		UniqueID:  inventory.UniqueID(pod),
		CreatedAt: pod.CreationTimestamp.Time,
		Apps:      []string{},
	}
	if len(pod.Spec.Containers) > 0 {
		row.Image = pod.Spec.Containers[0].Image
	}
	for _, uid := range inventory.References(pod) {
		row.Apps = append(row.Apps, cmp.Or(nameOf[uid], uid))
	}
	slices.Sort(row.Apps)
	return row
}

// podNames maps UIDs to namespace/name; empty when the user may not list the
// pods of all namespaces.
func podNames(ctx context.Context, c *cluster.Cluster) (map[string]string, error) {
	names := map[string]string{}
	pods, err := c.Pods(ctx, metav1.NamespaceAll)
	if err != nil && !apierrors.IsForbidden(err) {
		return nil, err
	}
	for _, pod := range pods {
		names[string(pod.UID)] = pod.Namespace + "/" + pod.Name
	}
	return names, nil
}
