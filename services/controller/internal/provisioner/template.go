package provisioner

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
)

// objects are what templates of a StorageClass may refer to. node is nil
// when the scheduler has not chosen one.
type objects struct {
	claim *corev1.PersistentVolumeClaim
	node  *corev1.Node
}

// resolve replaces ${.PVC.field}, ${.pvc.field} and ${.node.field}, the
// existing driver's templates; the first dot may be missing. A label or
// annotation that does not exist gives an empty text, an unknown field is an
// error. What was put in is not read again.
func (o objects) resolve(text string) (string, error) {
	var failure error
	expression := regexp.MustCompile(`\$\{\.?(PVC|pvc|node)\.([^}]*)\}`)
	resolved := expression.ReplaceAllStringFunc(text, func(match string) string {
		parts := expression.FindStringSubmatch(match)
		value, err := o.field(parts[1], parts[2])
		if err != nil && failure == nil {
			failure = fmt.Errorf("template %s: %w", match, err)
		}
		return value
	})
	return resolved, failure
}

func (o objects) field(object, field string) (string, error) {
	if object == "node" {
		return o.nodeField(field)
	}
	switch field {
	case "name":
		return o.claim.Name, nil
	case "namespace":
		return o.claim.Namespace, nil
	}
	return metadata(field, o.claim.Labels, o.claim.Annotations)
}

func (o objects) nodeField(field string) (string, error) {
	if o.node == nil {
		return "", fmt.Errorf("no node is chosen yet; the StorageClass needs volumeBindingMode WaitForFirstConsumer: %w",
			errdefs.ErrInvalidArgument)
	}
	switch field {
	case "name":
		return o.node.Name, nil
	case "podCIDR":
		return o.node.Spec.PodCIDR, nil
	}
	return metadata(field, o.node.Labels, o.node.Annotations)
}

func metadata(field string, labels, annotations map[string]string) (string, error) {
	if key, found := strings.CutPrefix(field, "labels."); found {
		return labels[key], nil
	}
	if key, found := strings.CutPrefix(field, "annotations."); found {
		return annotations[key], nil
	}
	return "", fmt.Errorf("%q is none of name, namespace, labels.KEY, annotations.KEY: %w", field, errdefs.ErrInvalidArgument)
}

// usesNode says whether a template refers to the node.
func usesNode(text string) bool {
	return strings.Contains(text, "${.node.") || strings.Contains(text, "${node.")
}

// resolveSecret replaces the templates that external-provisioner knows in names
// and namespaces of Secrets: ${pvc.name}, ${pvc.namespace}, ${pv.name} and
// ${pvc.annotations['key']}.
func resolveSecret(text, volumeName string, claim *corev1.PersistentVolumeClaim) (string, error) {
	var failure error
	resolved := os.Expand(text, func(name string) string {
		switch name {
		case "pvc.name":
			return claim.Name
		case "pvc.namespace":
			return claim.Namespace
		case "pv.name":
			return volumeName
		}
		if key, found := strings.CutPrefix(name, "pvc.annotations['"); found && strings.HasSuffix(key, "']") {
			return claim.Annotations[strings.TrimSuffix(key, "']")]
		}
		failure = fmt.Errorf("template ${%s} is none of pvc.name, pvc.namespace, pv.name, pvc.annotations['KEY']: %w",
			name, errdefs.ErrInvalidArgument)
		return ""
	})
	return resolved, failure
}
