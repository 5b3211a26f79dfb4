#pragma once
typedef struct cusparseContext* cusparseHandle_t;
typedef int cusparseStatus_t;
const char* cusparseGetErrorString(cusparseStatus_t);
