# 10.2 links its NVMe device and ACPI tables with these, and does not say so.
CONFIG_SPDM_SOCKET=y
CONFIG_PXB=y
CONFIG_CXL=y
CONFIG_CXL_MEM_DEVICE=y
