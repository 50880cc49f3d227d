package volume

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// Keys of volume attributes, which are the parameters of a StorageClass too.
const (
	AttributeSubPath            = "subPath"
	AttributeCapacity           = "capacity"
	AttributePathPattern        = "pathPattern"
	AttributeMountOptions       = "mountOptions"
	AttributeSecretFinalizer    = "secretFinalizer"
	AttributeControllerQuotaSet = "juicefs/controller-quota-set"

	attributeCPULimit      = "juicefs/mount-cpu-limit"
	attributeMemoryLimit   = "juicefs/mount-memory-limit"
	attributeCPURequest    = "juicefs/mount-cpu-request"
	attributeMemoryRequest = "juicefs/mount-memory-request"

	attributeImage          = "juicefs/mount-image"
	attributeServiceAccount = "juicefs/mount-service-account"
	attributeLabels         = "juicefs/mount-labels"
	attributeAnnotations    = "juicefs/mount-annotations"
	attributeDeleteDelay    = "juicefs/mount-delete-delay"
	attributeCleanCache     = "juicefs/clean-cache"
	attributeHostPath       = "juicefs/host-path"

	attributeCachePVC          = "juicefs/mount-cache-pvc"
	attributeCacheEmptyDir     = "juicefs/mount-cache-emptydir"
	attributeCacheInlineVolume = "juicefs/mount-cache-inline-volume"

	attributeProtection  = "csi.juicefs.com/crash-protection"
	attributeWarmStandby = "csi.juicefs.com/warm-standby"
	attributeRunAsUser   = "csi.juicefs.com/run-as-user"
	attributeRunAsGroup  = "csi.juicefs.com/run-as-group"
	attributeFSGroup     = "csi.juicefs.com/fs-group"

	// Set by Kubernetes and its provisioner.
	prefixKubernetes       = "csi.storage.k8s.io/"
	attributeProvisionerID = "storage.kubernetes.io/csiProvisionerIdentity"
)

// knownAttributes are the keys that people may write.
func knownAttributes() []string {
	return []string{
		AttributeSubPath, AttributeCapacity, AttributePathPattern, AttributeMountOptions, AttributeSecretFinalizer,
		AttributeControllerQuotaSet,
		attributeCPULimit, attributeMemoryLimit, attributeCPURequest, attributeMemoryRequest,
		attributeImage, attributeServiceAccount, attributeLabels, attributeAnnotations, attributeDeleteDelay,
		attributeCleanCache, attributeHostPath,
		attributeCachePVC, attributeCacheEmptyDir, attributeCacheInlineVolume,
		attributeProtection, attributeWarmStandby,
		attributeRunAsUser, attributeRunAsGroup, attributeFSGroup,
	}
}

// checkAttributes refuses keys that nobody reads, which are spelling mistakes.
func checkAttributes(attributes map[string]string, faults *faults) {
	known := knownAttributes()
	for _, key := range slices.Sorted(maps.Keys(attributes)) {
		if strings.HasPrefix(key, prefixKubernetes) || key == attributeProvisionerID || slices.Contains(known, key) {
			continue
		}
		if near := closest(key, known); near != "" {
			faults.add(sourceAttribute, key, "is not known; did you mean %s?", near)
			continue
		}
		faults.add(sourceAttribute, key, "is not known")
	}
	if err := CheckSubPath(attributes[AttributeSubPath]); err != nil {
		faults.add(sourceAttribute, AttributeSubPath, "%v", err)
	}
}

// CheckSubPath refuses what could reach outside of the file system's directory
// or, since the path becomes a part of an option list, what could add options.
// Claims can choose the path where a class has templates.
func CheckSubPath(subPath string) error {
	switch {
	case hasParent(subPath):
		return fmt.Errorf("%q must not lead upwards with two dots", subPath)
	case strings.ContainsFunc(subPath, func(r rune) bool { return r == ',' || unicode.IsControl(r) || r == unicode.ReplacementChar }):
		return fmt.Errorf("%q must hold neither commas nor control characters", subPath)
	}
	return nil
}

// closest is the known key that is the fewest changes away, or empty when none
// is near.
func closest(key string, known []string) string {
	best, bestDistance := "", 1+max(2, len(key)/3)
	for _, candidate := range known {
		if distance := editDistance(key, candidate); distance < bestDistance {
			best, bestDistance = candidate, distance
		}
	}
	return best
}

// editDistance counts the letters to insert, drop or change.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
