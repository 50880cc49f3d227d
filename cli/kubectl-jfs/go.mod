module github.com/juicefs-csi/driver/cli/kubectl-jfs

go 1.26.0

require (
	github.com/juicefs-csi/driver/libs v0.0.0
	github.com/juicefs-csi/driver/proto v0.0.0
	k8s.io/api v0.37.2
	k8s.io/apimachinery v0.37.2
	k8s.io/client-go v0.37.2
	github.com/spf13/cobra v1.10.2
	github.com/google/go-cmp v0.7.0
)

replace (
	github.com/juicefs-csi/driver/libs => ../../libs
	github.com/juicefs-csi/driver/proto => ../../proto
)
